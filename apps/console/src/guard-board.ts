import type { BoardHooks, HookContext } from '@bull-board/api/typings/app';
import type { ConsoleLogger } from './logger.js';
import { MASKED_ANSWERS } from './mask-answer.js';

/**
 * What an operator may do when the board isn't read-only. All of it only moves jobs, and working a job twice changes
 * nothing. Removing a job would lose acknowledged entries; adding or editing one would skip admission and its version.
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

/** Far more than the board asks for by itself. */
const MAX_JOBS_PER_PAGE = 100;

export interface BoardGuardOptions {
  showData: boolean;
  readOnly: boolean;
  logger?: ConsoleLogger;
}

/** Stands before and after each of the board's API calls: refuses what could harm entries, masks what is shown. */
export function guardBoard({ showData, readOnly, logger }: BoardGuardOptions): BoardHooks {
  return {
    before: ({ method, route, request }) => {
      if (method === 'get' && !isServed(route)) return refuse('this page is not served here');
      // All jobs of a long backlog at once would take the queue's store, and the console's memory.
      if (!(Number(request.query.jobsPerPage ?? 0) <= MAX_JOBS_PER_PAGE)) return refuse('this page would be too long');
      if (method === 'get') return undefined;
      if (readOnly) return refuse('this dashboard is read-only');
      if (!OPERATIONS.has(`${method} ${route}`)) return refuse('this could lose or damage entries, so it is off here');
      logger?.info({ operation: route, ...request.params }, 'operator acted on the queue');
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
