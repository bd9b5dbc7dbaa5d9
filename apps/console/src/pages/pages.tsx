import type { EntryQueue } from '@opm/queue';
import { type Store, StoreError } from '@opm/store';
import { type ErrorRequestHandler, type Request, type RequestHandler, Router } from 'express';
import type { Reads } from '../reads.js';
import { isOpenOf, isStream, operatorOf } from '../session.js';
import { changeOperators, getAudit, getOperators } from './audit-and-operators.js';
import { createHandleChange, createNotices, requirePageRole } from './change.js';
import { changeDeadLetters, type Replays } from './change-dead-letters.js';
import { NAVIGATION, sendOutage, sendPage, sendSlow } from './components.js';
import { getDeadLetter, getDeadLetters } from './dead-letters.js';
import { changeCustomers, getFind } from './find.js';
import { getOverview } from './overview.js';
import { changePartners, getPartner } from './partner.js';
import { getPartners } from './partners.js';
import { changeReveals, createRecordView, createReveals } from './reveal.js';

type PagesDeps = {
  store: Store;
  queue: EntryQueue;
  shards: number;
  reads: Reads;
  replays: Replays;
  /** Shows everybody what partners sent. */
  showData: boolean;
};

/** The pages for operators. Every form is checked by `createFormRoutes` before it gets here. */
export function createPages({ store, queue, shards, reads, replays, showData }: PagesDeps): RequestHandler {
  const reveals = createReveals(showData);
  const recordView = createRecordView(store.audit, reveals);
  const notices = createNotices();
  const live = createLive();
  const pages = Router();
  pages.use((request, response, next) => {
    if (request.method === 'GET' && !isStream(request)) response.locals.notice = notices.take(response);
    next();
  });
  for (const [path, , role] of NAVIGATION) {
    pages.get(path === '/' ? path : [path, `${path}/*below`], requirePageRole(role));
  }
  pages.get('/', live(getOverview(reads)));
  pages.get('/partners', live(getPartners(reads)));
  pages.get('/partners/:projectId', live(getPartner(reads)));
  pages.get('/find', getFind(reads, reveals, recordView));
  pages.get('/dead-letters', live(getDeadLetters(reads, replays, reveals, recordView)));
  pages.get('/dead-letters/:deadLetterId', getDeadLetter(reads, reveals, recordView));
  pages.get('/audit', getAudit(reads));
  pages.get('/operators', getOperators(reads));

  const handle = createHandleChange({ audit: store.audit, notices, onChanged: reads.onChanged });
  pages.use(changePartners(store, handle));
  pages.use(changeCustomers({ projects: store.projects, queue, shards }, handle));
  pages.use(changeDeadLetters({ ...store, replays, reveals }, handle));
  pages.use(changeOperators(store, handle));
  pages.use(changeReveals(reveals, handle));

  pages.get(/^(?!\/queues)/, (request, response) =>
    sendPage(request, response, { title: 'Not found', children: <p>There is no such page.</p> }, 404),
  );
  pages.use(showOutage);
  return pages;
}

const UPDATE_MS = 5_000;
const MAX_STREAMS = 100;
const MAX_STREAMS_PER_SESSION = 10;

/**
 * Creates the updates of open pages: for `console.js`, the page's URL is a stream of server-sent events, each with the
 * page as the operator would see it now. All streams are updated at the same time, so they share what `createReads`
 * reads. A stream ends with its session.
 */
function createLive() {
  /** The form token of each stream's session. */
  const updates = new Map<() => Promise<void>, string>();
  let timer: NodeJS.Timeout | undefined;
  const updateAll = () => {
    for (const update of updates.keys()) void update();
  };

  return <Params,>(show: RequestHandler<Params>): RequestHandler<Params> =>
    (request, response, next) => {
      if (!isStream(request as Request)) return show(request, response, next);
      if (response.destroyed) return; // the browser left while its session was read
      const { csrfToken } = operatorOf(response);
      const own = [...updates.values()].filter((token) => token === csrfToken).length;
      if (updates.size >= MAX_STREAMS || own >= MAX_STREAMS_PER_SESSION) return void response.status(503).end();
      response.set({ 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-accel-buffering': 'no' });
      response.write(`retry: ${UPDATE_MS}\n\n`);
      let [isBusy, last] = [false, ''];
      response.locals.update = (html: string) => {
        response.write(html === last ? 'event: same\ndata:\n\n' : `event: page\ndata: ${JSON.stringify(html)}\n\n`);
        last = html;
      };

      async function update(): Promise<void> {
        if (isBusy) return; // PostgreSQL is slow
        isBusy = true;
        try {
          // `end` would wait for a browser that does not read.
          if (!(await isOpenOf(response)())) response.destroy();
          else if (!response.writableNeedDrain) await show(request, response, () => response.destroy());
        } catch {
          // The open page shows its age. The next update succeeds once PostgreSQL answers again.
        } finally {
          isBusy = false;
        }
      }
      response.on('close', () => {
        updates.delete(update);
        if (updates.size > 0) return;
        clearInterval(timer);
        timer = undefined;
      });
      updates.set(update, csrfToken);
      timer ??= setInterval(updateAll, UPDATE_MS);
      void update();
    };
}

const showOutage: ErrorRequestHandler = (error, request, response, next) => {
  if (!(error instanceof StoreError)) next(error);
  else if (error.kind === 'outage') sendOutage(request, response);
  else if (error.kind === 'blocked') sendSlow(request, response);
  else next(error);
};
