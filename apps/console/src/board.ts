import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { BoardHooks, HookContext } from '@bull-board/api/typings/app';
import { ExpressAdapter } from '@bull-board/express';
import type { Express } from 'express';
import type { ConsoleLogger } from './guard.js';
import { MASKED_ANSWERS } from './mask.js';

export type BoardOptions = {
  /** BullMQ queues, on Redis or PostgreSQL. The caller closes them. */
  queues: ConstructorParameters<typeof BullMQAdapter>[0][];
  /** Shows customer data unmasked. */
  showData: boolean;
  /** The dashboard cannot change anything. */
  readOnly: boolean;
  logger?: ConsoleLogger | undefined;
};

/** Creates the Bull dashboard under /queues. */
export function createBoard({ queues, showData, readOnly, logger }: BoardOptions): Express {
  const adapterOptions = { readOnlyMode: readOnly, allowRetries: !readOnly, allowCompletedRetries: false };
  const board = new ExpressAdapter().setBasePath('/queues');
  createBullBoard({
    queues: queues.map((queue) => new BullMQAdapter(queue, adapterOptions)),
    serverAdapter: board,
    options: {
      uiConfig: { boardTitle: 'OPM Partners API' },
      handlerHooks: guardBoard({ showData, readOnly, logger }),
    },
  });
  // The board's own error handler answers with the error message, which may quote customer data.
  board.setErrorHandler((error) => {
    logger?.error({ err: error }, 'dashboard request failed');
    return { status: 500, body: { error: { key: 'ERRORS.INTERNAL_SERVER_ERROR' } } };
  });
  return (board.getRouter() as Express).disable('x-powered-by');
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
function guardBoard({ showData, readOnly, logger }: Omit<BoardOptions, 'queues'>): BoardHooks {
  return {
    before: ({ method, route, request }) => {
      if (method === 'get' && !isServed(route)) return refuse('this dashboard does not serve this page');
      // Reading all jobs of a long backlog at once would overload the queue store and fill the console's memory.
      if (!(Number(request.query.jobsPerPage ?? 0) <= MAX_JOBS_PER_PAGE))
        return refuse(`a page may have at most ${MAX_JOBS_PER_PAGE} jobs`);
      if (method === 'get') return undefined;
      if (readOnly) return refuse('this dashboard is read-only');
      if (!OPERATIONS.has(`${method} ${route}`))
        return refuse('this operation is disabled because it could lose or damage entries');
      logger?.info({ operation: route, ...request.params }, 'an operator changed the queue');
    },
    after: (context, answer) => {
      if (showData || context.method !== 'get' || (answer.status ?? 200) >= 400) return answer;
      return { ...answer, body: maskAnswer(context, answer.body) };
    },
  };
}

function isServed(route: string): boolean {
  return Object.hasOwn(MASKED_ANSWERS, route);
}

function maskAnswer({ route }: HookContext, body: unknown): Record<string, unknown> {
  const mask = MASKED_ANSWERS[route];
  if (!mask) throw new Error(`no mask for ${route}`);
  return mask(body as never) as Record<string, unknown>;
}

function refuse(message: string) {
  return { allow: false, status: 403, message } as const;
}
