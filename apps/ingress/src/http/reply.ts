import { randomUUID } from 'node:crypto';
import { ANSWERS, type Answer, FAULTS, Fault, type FaultCode } from '@opm/contract';
import { toReceipt } from '@opm/core';
import type { Logger } from '@opm/runtime';
import type { ActivityReporter, Counts } from '@opm/store';
import type { Response } from 'express';
import { LRUCache } from 'lru-cache';
import type { TokenReservation } from '../guards/token-reservation.js';
import type { EntryInput, Verdict } from '../ingest/call.js';
import type { IngressMetrics } from '../metrics.js';
import { answerWith } from './fast-express.js';
import { contextOf, findOwnRequestId, refusesEntry } from './request-context.js';

export type Reply = ReturnType<typeof createReply>;

/**
 * Headers of every answer. Caches must not store it, because it depends on the API key; browsers must not guess its
 * type.
 */
export const FIXED_HEADERS = [
  ['content-type', 'application/json; charset=utf-8'],
  ['cache-control', 'no-store'],
  ['x-content-type-options', 'nosniff'],
];
const FIXED = FIXED_HEADERS.map(([name, value]) => `${name}: ${value}\r\n`).join('');
const SLOW_MS = 1_000;
/** At most ten log lines a second: if one request is slow, usually all are. */
const SLOW_LOG_INTERVAL_MS = 100;
/** A project's refusals for one reason are logged once in this time. */
const REFUSAL_LOG_INTERVAL_MS = 60_000;
const MAX_REFUSALS = 10_000;

/**
 * The answer to an accepted entry or erasure, with its receipt. `isReplayed`: an earlier attempt has counted the entry.
 */
type Accepted = { answer: Answer; receipt: string; isReplayed: boolean };

/** The answer to one entry. */
export type EntryAnswer = Accepted | Fault;

/** The body of a batch. Its `results` have the same bytes as the bodies of single calls. */
function toBatchBody(results: EntryAnswer[]): string {
  const receipts = results.map((result) => (result instanceof Fault ? null : result.receipt));
  const rejected = results.filter((result) => result instanceof Fault).length;
  const head = JSON.stringify({ ...ANSWERS.multiStatus, accepted: results.length - rejected, rejected });
  const bodies = results.map((result) => toBody(result instanceof Fault ? result : result.answer));
  return `${head.slice(0, -1)},"results":[${bodies.join()}],"receipts":${JSON.stringify(receipts)}}`;
}

/** The bodies that never change, serialized once. */
const BODIES = new Map<Answer, string>(Object.values(ANSWERS).map((answer) => [answer, JSON.stringify(answer)]));

/** The answer to an accepted entry, or to the erasure of a customer that existed. */
export function toAccepted(
  { existed, version, isReplayed }: Verdict,
  { customerId, fields }: EntryInput,
  ifExisted: 'updateAccepted' | 'erasureAccepted' = 'updateAccepted',
): Accepted {
  // A literal, because `{ ...entry, version }` costs a microsecond.
  const receipt = toReceipt({ version, customerId, fields });
  return { answer: existed ? ANSWERS[ifExisted] : ANSWERS.created, receipt, isReplayed: isReplayed === true };
}

const COUNTERS = new Map<Answer, keyof Counts>([
  [ANSWERS.created, 'created'],
  [ANSWERS.updateAccepted, 'updated'],
  [ANSWERS.erasureAccepted, 'erased'],
]);

const toCounter = ({ answer, isReplayed }: Accepted) => (isReplayed ? undefined : COUNTERS.get(answer));

type ReplyDeps = {
  activity: Pick<ActivityReporter, 'of' | 'onKeyUse' | 'onLatency'>;
  metrics: IngressMetrics;
  logger: Logger;
};

/** Sends the JSON answers of the routes and of faults, counts them, and logs slow ones. */
export function createReply({ activity, metrics, logger }: ReplyDeps) {
  let slowLoggedAt = 0;
  function logSlow(slow: { requestId: string; status: number; ms: number }): void {
    if (performance.now() - slowLoggedAt < SLOW_LOG_INTERVAL_MS) return;
    slowLoggedAt = performance.now();
    logger.warn(slow, 'slow request');
  }

  /** @returns ms since the request was read */
  function send(response: Response, status: number, body: string, retryAfterSeconds = 0, receipt = ''): number {
    const requestId = requestIdOf(response);
    const context = contextOf(response);
    const { projectId, receivedAt, reservation, connection } = context;
    let headers = `x-request-id: ${requestId}\r\n${FIXED}`;
    if (receipt) headers += `receipt: ${receipt}\r\n`;
    if (retryAfterSeconds > 0) headers += `retry-after: ${retryAfterSeconds}\r\n`;
    if (reservation && status < 500) headers += toRateLimit(reservation, retryAfterSeconds);
    connection?.hold(context, answerWith(response, status, headers, body));
    const ms = performance.now() - receivedAt;
    if (ms > SLOW_MS) logSlow({ requestId, status, ms: Math.round(ms) });
    metrics.onAnswer(response.req.route?.path ?? 'none', status);
    if (projectId !== 0) {
      activity.of(projectId)[toAnswered(status)]++;
      if (status !== 403) activity.onKeyUse(context.keyId);
    }
    return ms;
  }

  function count(response: Response, result: EntryAnswer): void {
    const { projectId } = contextOf(response);
    const counter = result instanceof Fault ? toRefused(statusOf(result)) : toCounter(result);
    if (projectId === 0 || !counter) return;
    activity.of(projectId)[counter]++;
    // The cause of a 503 is logged once for all projects.
    if (result instanceof Fault && counter !== 'refusedUnavailable') logRefusal(response, result);
  }

  /** Logs a project's first refusal for a reason, then one a minute, with the number of entries refused in between. */
  const refusals = new LRUCache<string, { loggedAt: number; leftOut: number }>({ max: MAX_REFUSALS });
  function logRefusal(response: Response, { code }: Fault): void {
    const { projectId } = contextOf(response);
    const key = `${projectId} ${code}`;
    const last = refusals.get(key);
    const now = performance.now();
    if (last && now - last.loggedAt < REFUSAL_LOG_INTERVAL_MS) {
      last.leftOut++;
      return;
    }
    const refused = { requestId: requestIdOf(response), projectId, reason: code, leftOut: last?.leftOut ?? 0 };
    logger.warn(refused, KEY_REFUSALS.has(code) ? "refused a project's key" : "refused a project's entries");
    refusals.set(key, { loggedAt: now, leftOut: 0 });
  }

  return {
    pong(response: Response): void {
      send(response, ANSWERS.pong.statusCode, toBody(ANSWERS.pong));
    },
    accepted(response: Response, accepted: Accepted): void {
      const { answer, receipt } = accepted;
      const ms = send(response, answer.statusCode, toBody(answer), 0, receipt);
      metrics.onAck(ms / 1_000);
      activity.onLatency(contextOf(response).projectId, ms);
      count(response, accepted);
    },
    /**
     * Sends one result per entry, in order, each equal to that of the single call. `retry-after` is the longest of
     * them.
     */
    batch(response: Response, results: EntryAnswer[]): void {
      const waits = results.map((result) => (result instanceof Fault ? result.retryAfterSeconds : 0));
      const longest = waits.reduce((a, b) => Math.max(a, b), 0);
      send(response, ANSWERS.multiStatus.statusCode, toBatchBody(results), longest);
      for (const result of results) count(response, result);
    },
    /** Sends a body that the caller has serialized. */
    json(response: Response, status: number, body: string): void {
      send(response, status, body);
    },
    /** Counts the entries of a batch that gets another answer than {@link batch}. */
    countResults(response: Response, results: EntryAnswer[]): void {
      for (const result of results) count(response, result);
    },
    fault(response: Response, fault: Fault): void {
      if (fault.code === 'BODY_COMPRESSED') response.setHeader('accept-encoding', 'gzip, deflate');
      send(response, statusOf(fault), toBody(fault), fault.retryAfterSeconds);
      if (KEY_REFUSALS.has(fault.code)) logRefusal(response, fault);
      if (refusesEntry(response)) count(response, fault);
    },
  };
}

function toAnswered(status: number): keyof Counts {
  if (status < 400) return 'answered2xx';
  if (status === 429) return 'answered429';
  return status < 500 ? 'answered4xx' : 'answered5xx';
}

/** Logged also for requests without entries: the operator has restricted the key, or paused the project. */
const KEY_REFUSALS = new Set<FaultCode>(['PROJECT_PAUSED', 'KEY_SCOPE', 'KEY_ADDRESS']);

/**
 * Returns the counter for a refused entry.
 * @returns undefined if no entry was refused: the erasure of an unknown customer (it is queued), a wrong path or
 * method, a paused project, or a restriction of the key
 */
function toRefused(status: number): keyof Counts | undefined {
  if (status === 403 || status === 404 || status === 405) return undefined;
  if (status === 429) return 'refusedLimited';
  return status < 500 ? 'refusedInvalid' : 'refusedUnavailable';
}

const statusOf = ({ code }: Fault): number => FAULTS[code].statusCode;

/**
 * The `RateLimit-Policy` and `RateLimit` headers of draft-ietf-httpapi-ratelimit-headers-11. `t` is the time until
 * the bucket is full, or `retry-after` if that is set. A client that sends at most `r` entries within `t`, or waits for
 * `retry-after`, is not limited.
 */
function toRateLimit(reservation: TokenReservation, retryAfterSeconds: number): string {
  const now = performance.now();
  const remaining = retryAfterSeconds > 0 ? 0 : reservation.remaining(now);
  const seconds = retryAfterSeconds || reservation.secondsUntil(reservation.limit.burst, now);
  return `ratelimit-policy: ${reservation.policy}\r\nratelimit: "burst";r=${remaining};t=${seconds}\r\n`;
}

function toBody(result: Answer | Fault): string {
  if (!(result instanceof Fault)) return BODIES.get(result) ?? JSON.stringify(result);
  const { statusCode, error } = FAULTS[result.code];
  return JSON.stringify({ statusCode, error, message: result.message });
}

/**
 * The `x-request-id` of the answer and the logs: the client's id if it is valid, else a new UUID. Stable per request.
 */
export function requestIdOf(response: Response): string {
  const context = contextOf(response);
  context.requestId ??= findOwnRequestId(response.req) ?? PROCESS_ID + (++requests).toString(16).padStart(12, '0');
  return context.requestId;
}

/** All but the last 12 digits of a UUID; these count this process's requests. A `randomUUID` for each is slower. */
const PROCESS_ID = randomUUID().slice(0, -12);
let requests = 0;
