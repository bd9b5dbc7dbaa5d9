import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { AppViewRoute, BoardHooks, JobStatus } from '@bull-board/api/typings/app';
import { ExpressAdapter } from '@bull-board/express';
import { countWaiting } from '@opm/queue';
import type { Express } from 'express';
import type { ConsoleLogger } from './guard.js';
import { createShowJobs, JOB_ANSWERS, type JobViewOptions, MASKED_ANSWERS } from './mask.js';
import { renderHeader } from './pages/components.js';
import { operatorOf } from './session.js';

type Queue = ConstructorParameters<typeof BullMQAdapter>[0];

export type BoardOptions = JobViewOptions & {
  /** BullMQ queues, on Redis or PostgreSQL. The caller closes them. */
  queues: Queue[];
  /** The Bull dashboard cannot change anything. */
  readOnly: boolean;
  logger?: ConsoleLogger | undefined;
};

/** Creates the Bull dashboard under /queues. */
export function createBoard({ queues, ...options }: BoardOptions): Express {
  const { readOnly, logger } = options;
  const adapterOptions = { readOnlyMode: readOnly, allowRetries: !readOnly, allowCompletedRetries: false };
  const board = new PageAdapter().setBasePath('/queues');
  createBullBoard({
    queues: queues.map((queue) => new QueueAdapter(queue, adapterOptions)),
    serverAdapter: board,
    options: {
      uiConfig: {
        boardTitle: 'OPM Partners API',
        hideDocsLink: true,
        hideRedisDetails: !queues.some((queue) => 'client' in queue.getBackend()),
        dateFormats: { short: UTC, common: UTC, full: UTC },
      },
      handlerHooks: guardBoard(options),
    },
  });
  // The board's own error handler answers with the error message, which may quote customer data.
  board.setErrorHandler((error) => {
    logger?.error({ err: error }, 'request of the Bull dashboard failed');
    return { status: 500, body: { error: { key: 'ERRORS.INTERNAL_SERVER_ERROR' } } };
  });
  return (board.getRouter() as Express).disable('x-powered-by');
}

/** Such as `Dec 1, 2026, 03:20:00 UTC`. */
const UTC = { dateStyle: 'medium', timeStyle: 'long', timeZone: 'UTC', hourCycle: 'h23' } as const;

/** Jobs are removed when they complete, and none has children. */
const STATUSES: JobStatus[] = ['active', 'waiting', 'prioritized', 'failed', 'delayed'];

/** Lists jobs that are not finished in the order in which they run: the oldest first. BullMQ lists the newest first. */
class QueueAdapter extends BullMQAdapter {
  readonly #queue: Queue;

  constructor(queue: Queue, options: ConstructorParameters<typeof BullMQAdapter>[1]) {
    super(queue, options);
    this.#queue = queue;
  }

  /** Here a paused queue has the same states. */
  override async getJobCounts() {
    const [counts, waiting] = await Promise.all([super.getJobCounts(), countWaiting(this.#queue)]);
    return { ...counts, waiting, paused: 0 };
  }

  override getJobStatuses(): JobStatus[] {
    return STATUSES;
  }

  override async getJobs(statuses: JobStatus[], start = 0, end = -1) {
    const [status] = statuses;
    if (statuses.length > 1 || end < 0) return super.getJobs(statuses, start, end);
    if (status === 'prioritized' || status === 'delayed') return this.#queue.getJobs([status], start, end, true);
    if (status !== 'waiting' && status !== 'active') return super.getJobs(statuses, start, end);
    // On PostgreSQL, BullMQ (6.7) ignores `asc` for these lists, so the page is counted from the other end.
    const count = status === 'waiting' ? countWaiting(this.#queue) : this.#queue.getJobCountByTypes(status);
    const last = (await count) - 1;
    if (start > last) return [];
    return (await super.getJobs([status], Math.max(last - end, 0), last - start)).reverse();
  }
}

/** A web font of another host, which the content security policy refuses. */
const WEB_FONT = /<link href="https:[^>]*>/;

/** The overview has a tab for each state that bull-board knows. */
const HIDDEN_TABS = ['waiting-children', 'completed', 'paused'].map(
  (status) => `li:has(a[href="/queues/?status=${status}"])`,
);

/** The buttons of {@link OPERATIONS}, by their icons. bull-board has no option that hides the others. */
const SHOWN_BUTTONS = ':has(.lucide-pause, .lucide-play, .lucide-refresh-cw, .lucide-corner-up-left)';
const HIDDEN_BUTTONS = [
  `[role="menu"]:has([class*="danger-"]) [role="menuitem"]:not(${SHOWN_BUTTONS})`, // menu of a queue
  `:is([class*="queueActions-"], [class*="jobActions-"]) li:not(${SHOWN_BUTTONS})`,
  ...['[class*="actionsCell-"] button', '[class*="editButton-"]', '[class*="badgeWrap-"]'], // schedulers, limits
];

/** Leaves room for the console's header above the board's, as bull-board does for its badge. */
const STYLE = `<style>
${[...HIDDEN_TABS, ...HIDDEN_BUTTONS]} { display: none !important; }
body, body.dark-mode { --console-height: 2.5rem; --header-offset: calc(var(--header-height) + var(--console-height)); }
header[class*="header-"] { padding-top: var(--console-height); }
header > [class*="logo-"] { height: auto; }
.console { position: fixed; z-index: 100; inset: 0 0 auto; height: var(--console-height); padding: 0 1rem;
  justify-content: space-between; font-size: 0.9rem; background: var(--sidebar); border-bottom: 1px solid var(--border); }
.console, .console :is(nav, form) { display: flex; flex-wrap: wrap; align-items: center; gap: 0.25rem 1rem; margin: 0; }
.console span { max-width: 14rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.console * { color: var(--foreground); }
.console a[aria-current] { font-weight: 600; }
.console button { padding: 0 0.5rem; border: 1px solid; border-radius: 4px; background: var(--sidebar); }
.console .skip:not(:focus) { position: absolute; left: -100rem; }
@media (max-width: 64rem) { body, body.dark-mode { --console-height: 6.5rem; } }
noscript { display: block; padding: 4rem 1rem; color: var(--foreground); }
</style><noscript><style>#root { display: none; }</style></noscript>
<script defer src="/assets/console.js"></script>`;

const NO_SCRIPT =
  '<noscript><p>Queues is the Bull dashboard, which needs JavaScript. <a href="/">Back to the overview</a></p></noscript>';

/**
 * Serves the Bull dashboard's page below the console's navigation, without its web font, without tabs of states that
 * jobs here never have, and without buttons for what {@link guardBoard} refuses to everybody.
 */
class PageAdapter extends ExpressAdapter {
  override setEntryRoute({ method, route, handler }: AppViewRoute): this {
    this.app[method](route, (_request, response, next) => {
      const { name, params } = handler({ basePath: this.basePath, uiConfig: this.uiConfig });
      response.render(name, params, (error, page) => {
        if (error) return next(error);
        const top = renderHeader({ path: '/queues', operator: operatorOf(response), content: 'root' }) + NO_SCRIPT;
        response.set('cache-control', 'no-store'); // the header has the token of the session's forms
        const focusable = page.replace('id="root"', 'id="root" tabindex="-1"'); // for the link to the content
        response.send(focusable.replace(WEB_FONT, STYLE).replace(/<body[^>]*>/, `$&${top}`));
      });
    });
    return this;
  }
}

/**
 * Operations that are allowed if the board is not read-only. All of them only move jobs, and processing a job twice
 * changes nothing. Removing a job would lose acknowledged entries. Adding or editing one would bypass admission and its
 * version.
 */
const OPERATIONS = new Set([
  'put /api/queues/pause',
  'put /api/queues/resume',
  'put /api/queues/:queueName/pause',
  'put /api/queues/:queueName/resume',
  'put /api/queues/:queueName/promote',
  'put /api/queues/:queueName/:jobId/promote',
  'put /api/queues/:queueName/retry/:queueStatus',
  'put /api/queues/:queueName/:jobId/retry',
]);

/** Far more than the board requests by default. */
const MAX_JOBS_PER_PAGE = 100;

/** Hooks around the board's API: refuse operations that could harm entries, and mask the answers. */
function guardBoard({ readOnly, logger, ...view }: Omit<BoardOptions, 'queues'>): BoardHooks {
  const showJobs = createShowJobs(view);
  return {
    before: ({ method, route, request }) => {
      if (method === 'get' && !isServed(route)) return refuse('The console does not serve this page.');
      // Reading all jobs of a long backlog at once would overload the queue store and fill the console's memory.
      if (!(Number(request.query.jobsPerPage ?? 0) <= MAX_JOBS_PER_PAGE))
        return refuse(`A page may have at most ${MAX_JOBS_PER_PAGE} jobs.`);
      if (method === 'get') return undefined;
      if (readOnly) return refuse('The console is read-only.');
      if (!OPERATIONS.has(`${method} ${route}`))
        return refuse('Nobody may do this here, because it could lose or damage entries.');
      logger?.info({ operation: route, ...request.params }, 'operator requested a queue operation');
    },
    after: async ({ method, route }, answer) => {
      if (method !== 'get' || (answer.status ?? 200) >= 400) return answer;
      return { ...answer, body: (await showAnswer(route, answer.body)) as typeof answer.body };
    },
  };

  async function showAnswer(route: string, body: unknown): Promise<unknown> {
    const withJobs = JOB_ANSWERS[route];
    if (withJobs) return withJobs(body as never, showJobs);
    if (view.showData) return body;
    const mask = MASKED_ANSWERS[route];
    if (!mask) throw new Error(`no mask for ${route}`);
    return mask(body as never);
  }
}

function isServed(route: string): boolean {
  return Object.hasOwn(JOB_ANSWERS, route) || Object.hasOwn(MASKED_ANSWERS, route);
}

function refuse(message: string) {
  return { allow: false, status: 403, message } as const;
}
