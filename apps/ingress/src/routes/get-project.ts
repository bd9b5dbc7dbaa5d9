import { Fault, parseDays, toUsageAnswer } from '@opm/contract';
import { GroupCommit, withTimeout } from '@opm/core';
import type { Activity, ApiKeys } from '@opm/store';
import type { RequestHandler } from 'express';
import { LRUCache } from 'lru-cache';
import type { TimeBudget } from '../config.js';
import type { Overload } from '../guards/overload.js';
import type { Reply } from '../http/reply.js';
import { contextOf } from '../http/request-context.js';
import type { CircuitBreaker } from '../ingest/circuit-breaker.js';

type ProjectRouteDeps = { overload: Pick<Overload, 'checkRead'>; readProject: ReadProject; reply: Reply };

/** GET /usage: counts a project's entries per day, by what became of them. */
export function getUsage({ overload, readProject, reply }: ProjectRouteDeps): RequestHandler {
  return async (request, response) => {
    overload.checkRead();
    const days = parseDays(request.query, new Date());
    const counted = await readProject.usage(contextOf(response).projectId);
    reply.json(response, 200, JSON.stringify(toUsageAnswer(days, counted)));
  };
}

/** GET /keys: lists a project's active keys, without what would tell one who reads it a secret. */
export function getKeys({ overload, readProject, reply }: ProjectRouteDeps): RequestHandler {
  return async (_request, response) => {
    overload.checkRead();
    const keys = await readProject.keys(contextOf(response).projectId);
    reply.json(response, 200, JSON.stringify({ statusCode: 200, keys }));
  };
}

/** Reads of a project that may be a second old. @throws Fault CUSTOMERS_UNAVAILABLE within `ANSWER_TIMEOUT_MS` */
export type ReadProject = ReturnType<typeof createReadProject>;

/** Projects whose last result is kept. A usage of 400 days takes about 100 KiB. */
const MAX_PROJECTS = 100;
const TTL_MS = 1_000;

/**
 * A partner that asks in a loop costs PostgreSQL one statement a second: a result is kept for a second, and concurrent
 * requests of a project share a statement. One statement runs at a time, so that the look-ups have connections left.
 */
export function createReadProject(deps: {
  usage: Activity['usage'];
  keys: ApiKeys['listActive'];
  budget: Pick<TimeBudget, 'turnMs' | 'workMs'>;
  createBreaker: (what: string) => CircuitBreaker;
  now?: () => number;
}) {
  const { usage, keys, budget, createBreaker, now = () => performance.now() } = deps;
  const reads = new GroupCommit<string, () => Promise<object>, object>({
    async commit(_, calls) {
      const found = await calls[0]?.();
      return calls.map(() => found as object);
    },
    maxBatch: Number.MAX_SAFE_INTEGER,
    maxInFlight: 1,
    expiry: { maxWaitMs: budget.turnMs, toError: () => new Fault('CUSTOMERS_UNAVAILABLE') },
  });

  function share<T extends object>(what: string, read: (projectId: number) => Promise<T>) {
    const breaker = createBreaker(what);
    const recent = new LRUCache<number, T>({ max: MAX_PROJECTS, ttl: TTL_MS, ttlResolution: 0, perf: { now } });

    async function readOnce(projectId: number): Promise<T> {
      const found = await breaker.run(() => withTimeout(read(projectId), budget.workMs));
      recent.set(projectId, found);
      return found;
    }
    return async (projectId: number): Promise<T> => {
      const found = recent.get(projectId);
      if (found) return found;
      if (breaker.isOpen) throw new Fault('CUSTOMERS_UNAVAILABLE');
      const call = async () => recent.get(projectId) ?? readOnce(projectId);
      return reads.run(`${what} ${projectId}`, call).catch((cause) => {
        throw new Fault('CUSTOMERS_UNAVAILABLE', { cause });
      }) as Promise<T>;
    };
  }

  return { usage: share('usage', usage), keys: share('keys of a project', keys) };
}
