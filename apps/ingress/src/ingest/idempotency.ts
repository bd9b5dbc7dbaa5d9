import { createHash, hash, randomUUID } from 'node:crypto';
import { Fault, parseIdempotencyKey } from '@opm/contract';
import { GroupCommit, withTimeout } from '@opm/core';
import type { CompletedRequest, Idempotency, KeyedRequest, KeyState, StoredResponse } from '@opm/queue';
import { createThrottledWarning, type Logger } from '@opm/runtime';
import type { Request, Response } from 'express';
import type { TimeBudget } from '../config.js';
import { type Reply, type Result, render, statusOf } from '../http/reply.js';
import { contextOf } from '../http/request-context.js';
import type { Partitions } from './partitions.js';

/** What identifies a repeated request. A request whose body is ignored, such as DELETE, has no `body` here. */
export type KeyedCall = Keyed & { projectId: number; method: string; path: string };

/** `asLines`: the body is a batch in NDJSON. */
type Keyed = { key: string; body?: Buffer; asLines?: boolean };

/** Executes the request. It must start nothing after the deadline (`performance.now()`, ms). @throws Fault */
type Operation = (deadline: number) => Promise<Result | Result[]>;

/**
 * Runs the operation once per idempotency key. If the key has a stored response, returns that instead (`replayed`).
 * Faults of the operation are part of `result`.
 * @throws Fault IDEMPOTENCY_KEY_REUSED, TOO_MANY_IDEMPOTENCY_KEYS, QUEUE_UNAVAILABLE or OVERLOADED: the operation did
 * not run. IDEMPOTENCY_KEY_IN_USE: another attempt holds the lock of the key
 */
export type RunOnce = (
  call: KeyedCall,
  operation: Operation,
) => Promise<{ result: Result | Result[] } | { replayed: StoredResponse }>;

type RunOnceDeps = {
  idempotency: Pick<Idempotency, 'begin' | 'end'>;
  partitions: Partitions;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs' | 'keyLockMs' | 'keyMarginMs'>;
  /** Maximum number of requests that wait for the lock of their key. */
  maxPending: number;
  onShed: (reason: 'in-flight' | 'waited' | 'idempotency-keys') => void;
  logger: Logger;
};

const RESPONSE_TTL_MS = 24 * 60 * 60 * 1_000;
const MAX_REQUESTS = 200;
const MAX_IN_FLIGHT_PER_PARTITION = 4;

/** Concurrent requests of one project and shard lock their keys in one call, and store their responses in one call. */
export function createRunOnce(deps: RunOnceDeps): RunOnce {
  const { idempotency, partitions, budget, maxPending, onShed, logger } = deps;
  const warnNotLocked = createThrottledWarning(logger, 'could not lock idempotency keys; answering 503');
  const warnNotStored = createThrottledWarning(
    logger,
    'could not store responses; a retry with the same idempotency key runs again once its lock has expired',
  );
  const warnNoRoom = createThrottledWarning(
    logger,
    'stored responses of a project reached their limit; new idempotency keys get 429 until some expire (within 24 h)',
  );

  const begins = new GroupCommit<number, KeyedRequest, KeyState>({
    async commit(partition, requests) {
      const { shard, projectId } = partitions.fromPartition(partition);
      const begun = idempotency.begin(shard, projectId, requests, budget.keyLockMs);
      try {
        return await withTimeout(begun, budget.workMs);
      } catch (error) {
        unlock(partition, requests, begun);
        warnNotLocked(causeOf(error));
        throw error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
      }
    },
    maxBatch: MAX_REQUESTS,
    ...partitions.toLimits(MAX_IN_FLIGHT_PER_PARTITION),
    expiry: {
      maxWaitMs: budget.turnMs,
      toError() {
        warnNotLocked(new Error(`requests waited longer than ${budget.turnMs} ms for earlier calls`));
        return refuse('waited');
      },
    },
  });
  const ends = new GroupCommit<number, CompletedRequest, KeyState>({
    commit: (partition, requests) => withTimeout(endAll(partition, requests), budget.workMs),
    maxBatch: MAX_REQUESTS,
    ...partitions.toLimits(MAX_IN_FLIGHT_PER_PARTITION),
    expiry: {
      maxWaitMs: budget.turnMs,
      toError: () => new Error(`responses waited longer than ${budget.turnMs} ms for earlier calls`),
    },
  });

  function refuse(reason: 'in-flight' | 'waited'): Fault {
    onShed(reason);
    return new Fault('OVERLOADED');
  }

  /**
   * Unlocks keys that the store may still lock after their requests were refused. If this fails, the locks expire by
   * themselves.
   */
  function unlock(partition: number, requests: KeyedRequest[], begun: Promise<unknown>): void {
    const ended = requests.map((request) => ({ ...request, answer: undefined }));
    begun.finally(() => endAll(partition, ended)).catch(() => {});
  }

  function endAll(partition: number, ended: CompletedRequest[]): Promise<KeyState[]> {
    const { shard, projectId } = partitions.fromPartition(partition);
    return idempotency.end(shard, projectId, ended, RESPONSE_TTL_MS);
  }

  function refuseNewKey(projectId: number): Fault {
    onShed('idempotency-keys');
    warnNoRoom(new Error(`project ${projectId} reached its limit of stored responses`));
    return new Fault('TOO_MANY_IDEMPOTENCY_KEYS');
  }

  /**
   * Stores the response. If that fails, the partner still gets the response: the entry is already queued or refused.
   */
  async function end(partition: number, ended: CompletedRequest): Promise<KeyState> {
    try {
      return await ends.run(partition, ended);
    } catch (error) {
      warnNotStored(causeOf(error));
      return { state: 'first' };
    }
  }

  return async (call, operation) => {
    if (begins.pending >= maxPending) throw refuse('in-flight');
    const request = toRequest(call);
    const partition = partitions.toPartition(call.projectId, request.id);
    // Starts before the store starts the lock time, so it ends before another attempt can get the lock.
    const deadline = performance.now() + budget.keyLockMs - budget.keyMarginMs;
    const keyState = await begins.run(partition, request);
    if (keyState.state === 'answered') return { replayed: keyState.answer };
    if (keyState.state === 'other') throw new Fault('IDEMPOTENCY_KEY_REUSED');
    if (keyState.state === 'no-room') throw refuseNewKey(call.projectId);
    if (keyState.state === 'in-flight') throw new Fault('IDEMPOTENCY_KEY_IN_USE');

    const result = await runBeforeDeadline(operation, deadline);
    const finalState = await end(partition, { ...request, answer: isStored(result) ? render(result) : undefined });
    if (finalState.state === 'first') return { result };
    // The lock expired and another attempt got it; the response of that attempt counts.
    if (finalState.state === 'answered') return { replayed: finalState.answer };
    throw new Fault('IDEMPOTENCY_KEY_IN_USE');
  };
}

function toRequest({ projectId, key, method, path, body, asLines }: KeyedCall): KeyedRequest {
  // The same bytes as NDJSON and as JSON are two different requests. Only the unlikely form (an array as NDJSON, or
  // lines as JSON) adds to the fingerprint, so that the usual form keeps the fingerprint of earlier releases.
  const isOdd = body !== undefined && asLines === startsWithArray(body);
  // Includes the key; otherwise the body could be guessed from the stored fingerprint.
  const fingerprint = createHash('sha256').update(`${projectId}:${key}\n${method} ${path}${isOdd ? ' odd' : ''}\n`);
  if (body) fingerprint.update(body);
  // Hashed, because a key may be long and contain data that no log or dashboard may show.
  const id = hash('sha256', `${projectId}:${key}`, 'base64url');
  return { id, fingerprint: fingerprint.digest('base64url'), token: randomUUID() };
}

const startsWithArray = (body: Buffer) => body.find((byte) => byte > SPACE) === OPENING_BRACKET;
const SPACE = 0x20;
const OPENING_BRACKET = 0x5b;

const causeOf = (error: unknown) => ((error as Error).cause ?? error) as Error;

async function runBeforeDeadline(operation: Operation, deadline: number): Promise<Result | Result[]> {
  try {
    if (performance.now() > deadline) throw new Fault('QUEUE_UNAVAILABLE');
    return await operation(deadline);
  } catch (error) {
    return error instanceof Fault ? error : new Fault('INTERNAL', { cause: error });
  }
}

/** Stores a response if the request had an effect and no part of it must be sent again. Others can safely run again. */
function isStored(result: Result | Result[]): boolean {
  if (Array.isArray(result)) return !result.some(isRetryable) && result.some((one) => !(one instanceof Fault));
  return !(result instanceof Fault) || result.code === 'CUSTOMER_UNKNOWN'; // the erasure is queued despite the 404
}

function isRetryable(result: Result): boolean {
  const status = statusOf(result);
  return status >= 500 || status === 409 || status === 429;
}

/** Runs and answers a request that has an idempotency key. @throws Fault that is the answer */
export type ReplyOnce = (request: Request, response: Response, keyed: Keyed, operation: Operation) => Promise<void>;

/** A replay sends the stored response byte for byte, with the header `idempotent-replayed: true`. */
export function createReplyOnce({ runOnce, reply }: { runOnce: RunOnce; reply: Reply }): ReplyOnce {
  return async (request, response, keyed, operation) => {
    const { method, originalUrl: path } = request;
    const outcome = await runOnce({ projectId: contextOf(response).projectId, method, path, ...keyed }, operation);
    if ('replayed' in outcome) {
      response.setHeader('idempotent-replayed', 'true');
      return reply.json(response, outcome.replayed.status, outcome.replayed.body);
    }
    const { result } = outcome;
    if (result instanceof Fault) throw result;
    if (Array.isArray(result)) reply.batch(response, result);
    else reply.answer(response, result);
  };
}

/** Returns the idempotency key, if any. @throws Fault IDEMPOTENCY_KEY_INVALID or IDEMPOTENCY_KEY_REPEATED */
export function findIdempotencyKey(request: Request): string | undefined {
  if (request.headers['idempotency-key'] === undefined) return undefined;
  return parseIdempotencyKey(request.headersDistinct['idempotency-key'] ?? []); // `headers` would join repeated headers
}
