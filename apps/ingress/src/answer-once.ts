import { createHash, hash, randomUUID } from 'node:crypto';
import { Fault } from '@opm/contract';
import { GroupCommit, withTimeout } from '@opm/core';
import type { Ended, Idempotency, KeptAnswer, KeyedRequest, Known } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import type { Lanes } from './lanes.js';
import { type Result, render, statusOf } from './reply.js';
import type { TimeBudget } from './time-budget.js';

/** What makes a request the same one again. Where the body says nothing, as with DELETE, it is left out. */
export type KeyedCall = Keyed & { projectId: number; method: string; path: string };

/** `asLines`, of a batch: the body is read line by line. */
export type Keyed = { key: string; body?: Buffer; asLines?: boolean };

/** Does what a request asks for; nothing after the deadline, in ms as `performance.now()` has it. @throws Fault */
export type Act = (deadline: number) => Promise<Result | Result[]>;

/**
 * Acts, unless the key's first answer is there: then that is the answer.
 * @throws Fault IDEMPOTENCY_KEY_IN_USE, IDEMPOTENCY_KEY_REUSED, TOO_MANY_IDEMPOTENCY_KEYS, or QUEUE_UNAVAILABLE or OVERLOADED:
 * nothing was done
 */
export type AnswerOnce = (call: KeyedCall, act: Act) => Promise<{ told: Result | Result[] } | { replayed: KeptAnswer }>;

export type AnswerOnceDeps = {
  idempotency: Pick<Idempotency, 'begin' | 'end'>;
  lanes: Lanes;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs' | 'keyLeaseMs' | 'keyMarginMs'>;
  /** Requests that may wait for their key at the same time. */
  maxPending: number;
  onShed: (reason: 'in-flight' | 'waited' | 'idempotency-keys') => void;
  logger: Logger;
};

const KEEP_MS = 24 * 60 * 60 * 1_000;
const MAX_REQUESTS = 200;
const MAX_IN_FLIGHT_PER_LANE = 4;

/** Concurrent requests of one project whose keys are in one shard ask for them together, and give them back together. */
export function createAnswerOnce(deps: AnswerOnceDeps): AnswerOnce {
  const { idempotency, lanes, budget, maxPending, onShed, logger } = deps;
  const warnNotBegun = createSparseWarning(logger, 'requests with an idempotency key are not accepted');
  const warnNotEnded = createSparseWarning(
    logger,
    'answers are not kept: retries with the same idempotency key act again',
  );
  const warnNoRoom = createSparseWarning(logger, 'requests with a new idempotency key are refused for a day at most');

  const begins = new GroupCommit<number, KeyedRequest, Known>({
    async commit(lane, requests) {
      const { shard, projectId } = lanes.fromLane(lane);
      const begun = idempotency.begin(shard, projectId, requests, budget.keyLeaseMs);
      try {
        return await withTimeout(begun, budget.workMs);
      } catch (error) {
        free(lane, requests, begun);
        warnNotBegun(causeOf(error));
        throw error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
      }
    },
    maxBatch: MAX_REQUESTS,
    ...lanes.toLimits(MAX_IN_FLIGHT_PER_LANE),
    expiry: {
      maxWaitMs: budget.turnMs,
      toError() {
        warnNotBegun(new Error(`they waited for more than ${budget.turnMs} ms for their turn`));
        return refuse('waited');
      },
    },
  });
  const ends = new GroupCommit<number, Ended, Known>({
    commit: (lane, requests) => withTimeout(endAll(lane, requests), budget.workMs),
    maxBatch: MAX_REQUESTS,
    ...lanes.toLimits(MAX_IN_FLIGHT_PER_LANE),
    expiry: { maxWaitMs: budget.turnMs, toError: () => new Error(`answers waited for more than ${budget.turnMs} ms`) },
  });

  function refuse(reason: 'in-flight' | 'waited'): Fault {
    onShed(reason);
    return new Fault('OVERLOADED');
  }

  /** The store may give a key to one who is not there any more. What fails here is free when the lease is over. */
  function free(lane: number, requests: KeyedRequest[], begun: Promise<unknown>): void {
    const ended = requests.map((request) => ({ ...request, answer: undefined }));
    begun.finally(() => endAll(lane, ended)).catch(() => {});
  }

  function endAll(lane: number, ended: Ended[]): Promise<Known[]> {
    const { shard, projectId } = lanes.fromLane(lane);
    return idempotency.end(shard, projectId, ended, KEEP_MS);
  }

  function refuseNewKey(projectId: number): Fault {
    onShed('idempotency-keys');
    warnNoRoom(new Error(`project ${projectId} has no room for more answers`));
    return new Fault('TOO_MANY_IDEMPOTENCY_KEYS');
  }

  /** The entry is queued by now, or is not: whatever becomes of the key, that is what its partner must be told. */
  async function end(lane: number, ended: Ended): Promise<Known> {
    try {
      return await ends.run(lane, ended);
    } catch (error) {
      warnNotEnded(causeOf(error));
      return { state: 'first' };
    }
  }

  return async (call, act) => {
    if (begins.pending >= maxPending) throw refuse('in-flight');
    const request = toRequest(call);
    const lane = lanes.toLane(call.projectId, request.id);
    // Counted from before the store counts, so that nobody acts whose key may be another's by then.
    const deadline = performance.now() + budget.keyLeaseMs - budget.keyMarginMs;
    const known = await begins.run(lane, request);
    if (known.state === 'answered') return { replayed: known.answer };
    if (known.state === 'other') throw new Fault('IDEMPOTENCY_KEY_REUSED');
    if (known.state === 'no-room') throw refuseNewKey(call.projectId);
    if (known.state === 'in-flight') throw new Fault('IDEMPOTENCY_KEY_IN_USE');

    const told = await runInTime(act, deadline);
    const found = await end(lane, { ...request, answer: isKept(told) ? render(told) : undefined });
    if (found.state === 'first') return { told };
    // Too late: another attempt has the key, and what it is told is the first answer.
    if (found.state === 'answered') return { replayed: found.answer };
    throw new Fault('IDEMPOTENCY_KEY_IN_USE');
  };
}

function toRequest({ projectId, key, method, path, body, asLines }: KeyedCall): KeyedRequest {
  // An array as lines, or lines as an array, is another request. Either as what it is has the fingerprint that it had before
  // the two were told apart, so that a repeat across the upgrade gets its first answer.
  const isOdd = body !== undefined && asLines === startsWithArray(body);
  // With the key in it, or a body could be guessed from what is kept.
  const fingerprint = createHash('sha256').update(`${projectId}:${key}\n${method} ${path}${isOdd ? ' odd' : ''}\n`);
  if (body) fingerprint.update(body);
  // Hashed: a key may be long, and hold what no log or dashboard of ours may show.
  const id = hash('sha256', `${projectId}:${key}`, 'base64url');
  return { id, fingerprint: fingerprint.digest('base64url'), token: randomUUID() };
}

const startsWithArray = (body: Buffer) => body.find((byte) => byte > SPACE) === OPENING_BRACKET;
const SPACE = 0x20;
const OPENING_BRACKET = 0x5b;

const causeOf = (error: unknown) => ((error as Error).cause ?? error) as Error;

async function runInTime(act: Act, deadline: number): Promise<Result | Result[]> {
  try {
    if (performance.now() > deadline) throw new Fault('QUEUE_UNAVAILABLE');
    return await act(deadline);
  } catch (error) {
    return error instanceof Fault ? error : new Fault('INTERNAL', { cause: error });
  }
}

/** What has done something, and has nothing in it that is to be sent again. All else would be the same again without us. */
function isKept(told: Result | Result[]): boolean {
  if (Array.isArray(told)) return !told.some(isToBeSentAgain) && told.some((result) => !(result instanceof Fault));
  return !(told instanceof Fault) || told.code === 'CUSTOMER_UNKNOWN'; // an erasure's tombstone is queued all the same
}

function isToBeSentAgain(result: Result): boolean {
  const status = statusOf(result);
  return status >= 500 || status === 409 || status === 429;
}
