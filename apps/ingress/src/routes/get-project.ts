import {
  Fault,
  type FaultCode,
  parseDays,
  parseReceiptOf,
  parseRefusedQuery,
  type RefusedAnswer,
  type RefusedEntry,
  type RefusedQuery,
  toCursor,
  toRefusedEntry,
  toUsageAnswer,
} from '@opm/contract';
import { GroupCommit, isStored, withTimeout } from '@opm/core';
import type { Activity, ApiKeys, Customers, DeadLetters, VersionedCustomer } from '@opm/store';
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
    overload.checkRead('USAGE_UNAVAILABLE');
    const days = parseDays(request.query, new Date());
    const counted = await readProject.usage(contextOf(response).projectId);
    reply.json(response, 200, JSON.stringify(toUsageAnswer(days, counted)));
  };
}

/** GET /keys: lists a project's active keys. The answer contains no secrets. */
export function getKeys({ overload, readProject, reply }: ProjectRouteDeps): RequestHandler {
  return async (_request, response) => {
    overload.checkRead('KEY_LIST_UNAVAILABLE');
    const keys = await readProject.keys(contextOf(response).projectId);
    reply.json(response, 200, JSON.stringify({ statusCode: 200, keys }));
  };
}

/**
 * Reads of a project that may be a second old.
 * @throws Fault USAGE_UNAVAILABLE or KEY_LIST_UNAVAILABLE within `ANSWER_TIMEOUT_MS`
 */
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
      const result = await calls[0]?.();
      return calls.map(() => result as object);
    },
    maxBatch: Number.MAX_SAFE_INTEGER,
    maxInFlight: 1,
    expiry: { maxWaitMs: budget.turnMs, toError: () => new Error('waited too long for its turn') },
  });

  function share<T extends object>(what: string, unavailable: FaultCode, read: (projectId: number) => Promise<T>) {
    const breaker = createBreaker(what);
    const recent = new LRUCache<number, T>({ max: MAX_PROJECTS, ttl: TTL_MS, ttlResolution: 0, perf: { now } });

    async function readOnce(projectId: number): Promise<T> {
      const result = await breaker.run(() => withTimeout(read(projectId), budget.workMs));
      recent.set(projectId, result);
      return result;
    }
    return async (projectId: number): Promise<T> => {
      const result = recent.get(projectId);
      if (result) return result;
      if (breaker.isOpen) throw new Fault(unavailable);
      const call = async () => recent.get(projectId) ?? readOnce(projectId);
      return reads.run(`${what} ${projectId}`, call).catch((cause) => {
        throw new Fault(unavailable, { cause });
      }) as Promise<T>;
    };
  }

  return {
    usage: share('usage', 'USAGE_UNAVAILABLE', usage),
    keys: share('keys of a project', 'KEY_LIST_UNAVAILABLE', keys),
  };
}

/** GET /entries/refused: lists the project's entries that PostgreSQL refused, newest first, a page at a time. */
export function getRefused(deps: {
  overload: Pick<Overload, 'checkRead'>;
  listRefused: ListRefused;
  reply: Reply;
}): RequestHandler {
  const { overload, listRefused, reply } = deps;
  return async (request, response) => {
    overload.checkRead('REFUSED_UNAVAILABLE');
    const query = parseRefusedQuery(request.query);
    const answer = await listRefused(contextOf(response).projectId, query);
    reply.json(response, 200, JSON.stringify(answer));
  };
}

/** @throws Fault REFUSED_UNAVAILABLE within `ANSWER_TIMEOUT_MS` */
export type ListRefused = (projectId: number, query: RefusedQuery) => Promise<RefusedAnswer>;

/** One page is read at a time, so that the look-ups have connections left. Projects take turns. */
export function createListRefused(deps: {
  listRefused: DeadLetters['listRefused'];
  findVersioned: Customers['findVersioned'];
  budget: Pick<TimeBudget, 'turnMs' | 'workMs'>;
  breaker: CircuitBreaker;
}): ListRefused {
  const { listRefused, findVersioned, budget, breaker } = deps;

  const pages = new GroupCommit<number, RefusedQuery, RefusedAnswer>({
    async commit(projectId, [query]) {
      return [await breaker.run(() => withTimeout(readPage(projectId, query as RefusedQuery), budget.workMs))];
    },
    maxBatch: 1,
    maxInFlight: 1,
    expiry: { maxWaitMs: budget.turnMs, toError: () => new Fault('REFUSED_UNAVAILABLE') },
  });

  async function readPage(projectId: number, { limit, ...query }: RefusedQuery): Promise<RefusedAnswer> {
    const letters = await listRefused(projectId, { ...query, limit: limit + 1 });
    const page = letters.slice(0, limit);
    const last = letters.length > limit ? page.at(-1) : undefined;
    const rows = await findVersioned(projectId, [...new Set(page.map(({ letter }) => letter.customerId))]);
    return {
      statusCode: 200,
      refused: page.map(({ letter }) => {
        const entry = toRefusedEntry(letter);
        return isCovered(entry, rows.get(letter.customerId)) ? { ...entry, state: 'stored' } : entry;
      }),
      cursor: last ? toCursor(last.place) : null,
    };
  }

  return async (projectId, query) => {
    if (breaker.isOpen) throw new Fault('REFUSED_UNAVAILABLE');
    return pages.run(projectId, query).catch((cause) => {
      throw new Fault('REFUSED_UNAVAILABLE', { cause });
    });
  };
}

/** Whether the entry took effect in the end, or newer entries cover it. */
export const isCovered = ({ customerId, receipt }: RefusedEntry, row: VersionedCustomer | undefined): boolean =>
  row !== undefined && isStored(parseReceiptOf(customerId, receipt), row);
