import type { EntryQueue } from '@opm/queue';
import { type Store, StoreError } from '@opm/store';
import { type ErrorRequestHandler, type Request, type RequestHandler, type Response, Router } from 'express';
import type { Reads } from '../reads.js';
import type { Replays } from '../replays.js';
import { createNotices, createReveals, requireRole } from '../session.js';
import { createHandleChange } from './change.js';
import { sendPage } from './components.js';
import { changeDeadLetters, getDeadLetter, getDeadLetters } from './dead-letters.js';
import { changeCustomers, getFind } from './find.js';
import { getOverview } from './overview.js';
import { changePartners, getPartner } from './partner.js';
import { getPartners } from './partners.js';
import { changeOperators, getAudit, getOperators } from './people.js';
import { changeReveals, createRecordView } from './reveal.js';

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
  const pages = Router();
  pages.use((request, response, next) => {
    if (request.method === 'GET') response.locals.notice = notices.take(response);
    next();
  });
  pages.get('/', getOverview(reads));
  pages.get('/partners', getPartners(reads));
  pages.get('/partners/:projectId', getPartner(reads));
  pages.get('/find', getFind(reads, reveals, recordView));
  pages.get('/dead-letters', getDeadLetters(reads, replays, reveals));
  pages.get('/dead-letters/:deadLetterId', getDeadLetter(reads, reveals, recordView));
  pages.get('/audit', requireRole('operator'), getAudit(reads));
  pages.get('/operators', requireRole('admin'), getOperators(reads));

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

const showOutage: ErrorRequestHandler = (error, request, response, next) => {
  if (error instanceof StoreError && error.kind === 'outage') sendOutage(request, response);
  else next(error);
};

/** The answer while PostgreSQL is down. It needs no operator, because sessions cannot be read then. */
export function sendOutage(request: Request, response: Response): void {
  const children = (
    <p>
      PostgreSQL does not answer. <code>docs/runbook.md#postgresql-is-down-or-slow</code>
    </p>
  );
  sendPage(request, response, { title: 'Not available', children }, 503);
}
