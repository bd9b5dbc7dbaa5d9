import { ANSWERS, type Answer, FAULTS, Fault } from '@opm/contract';
import type { Logger } from '@opm/runtime';
import type { Response } from 'express';
import { contextOf } from './express-classes.js';
import type { Lease } from './lease.js';
import type { Measures } from './measures.js';
import { requestIdOf } from './request-id.js';

export type Reply = ReturnType<typeof createReply>;

/** What is answered depends on the key, so no cache may keep it, and no browser may take it for anything but JSON. */
export const FIXED_HEADERS = [
  ['content-type', 'application/json; charset=utf-8'],
  ['cache-control', 'no-store'],
  ['x-content-type-options', 'nosniff'],
];
const FIXED = FIXED_HEADERS.flat();
const SLOW_MS = 1_000;
/** Not more than ten lines a second: when one request is slow, they all are. */
const SLOW_LOG_INTERVAL_MS = 100;

/** What a partner is told of one entry. */
export type Result = Answer | Fault;

/** What goes out for a single request, or for a batch. The same told twice is the same bytes. */
export function render(told: Result | Result[]): { status: number; body: string } {
  if (!Array.isArray(told)) return { status: statusOf(told), body: toBody(told) };
  const rejected = told.filter((result) => result instanceof Fault).length;
  const head = JSON.stringify({ ...ANSWERS.multiStatus, accepted: told.length - rejected, rejected });
  return {
    status: ANSWERS.multiStatus.statusCode,
    body: `${head.slice(0, -1)},"results":[${told.map(toBody).join()}]}`,
  };
}

/** Bodies that never change, made once. Strings and not buffers: Node sends these with the headers as one piece. */
const BODIES = new Map<Answer, string>(Object.values(ANSWERS).map((answer) => [answer, JSON.stringify(answer)]));

/** The only way to answer: every body is JSON, every answer is counted and timed. */
export function createReply({ measures, logger }: { measures: Measures; logger: Logger }) {
  let slowLoggedAt = 0;
  function logSlow(slow: { requestId: string; status: number; ms: number }): void {
    if (performance.now() - slowLoggedAt < SLOW_LOG_INTERVAL_MS) return;
    slowLoggedAt = performance.now();
    logger.warn(slow, 'slow request');
  }

  /** @returns milliseconds since the request was read */
  function send(response: Response, status: number, body: string, retryAfterSeconds = 0): number {
    const requestId = requestIdOf(response);
    const context = contextOf(response);
    const { receivedAt, lease, connection } = context;
    if (retryAfterSeconds > 0) response.setHeader('retry-after', retryAfterSeconds);
    if (lease && status < 500) setRateLimit(response, lease, retryAfterSeconds);
    const length = Buffer.byteLength(body);
    // One flat list, because Node keeps headers that are set one by one in an object of their own first.
    response.writeHead(status, ['x-request-id', requestId, ...FIXED, 'content-length', length]);
    connection?.hold(context, length);
    response.end(body, length === body.length ? 'latin1' : 'utf8'); // where it is ASCII, latin1 is the same and faster
    const ms = performance.now() - receivedAt;
    if (ms > SLOW_MS) logSlow({ requestId, status, ms: Math.round(ms) });
    measures.onAnswer(response.req.route?.path ?? 'none', status);
    return ms;
  }

  return {
    answer(response: Response, answer: Answer): void {
      const ms = send(response, answer.statusCode, toBody(answer));
      if (answer !== ANSWERS.pong) measures.onAck(ms / 1_000);
    },
    /** One result per entry, in order, each as the single call would have had it; the longest wait of those to be sent again. */
    batch(response: Response, results: Result[]): void {
      const waits = results.map((result) => (result instanceof Fault ? result.retryAfterSeconds : 0));
      const longest = waits.reduce((a, b) => Math.max(a, b), 0);
      const { status, body } = render(results);
      send(response, status, body, longest);
    },
    /** For bodies that are not the same each time. */
    json(response: Response, status: number, body: string): void {
      send(response, status, body);
    },
    fault(response: Response, fault: Fault): void {
      send(response, statusOf(fault), toBody(fault), fault.retryAfterSeconds);
    },
  };
}

export function statusOf(result: Result): number {
  return result instanceof Fault ? FAULTS[result.code].statusCode : result.statusCode;
}

/**
 * The fields of draft-ietf-httpapi-ratelimit-headers-11. `t` is when the bucket is full again, and never later than
 * `retry-after`: whoever keeps to `r` within `t`, or waits as they are told, is let through.
 */
function setRateLimit(response: Response, lease: Lease, retryAfterSeconds: number): void {
  const now = performance.now();
  const remaining = retryAfterSeconds > 0 ? 0 : lease.remaining(now);
  const seconds = retryAfterSeconds || lease.secondsUntil(lease.limit.burst, now);
  response.setHeader('ratelimit-policy', lease.policy);
  response.setHeader('ratelimit', `"burst";r=${remaining};t=${seconds}`);
}

function toBody(result: Result): string {
  if (!(result instanceof Fault)) return BODIES.get(result) ?? JSON.stringify(result);
  const { statusCode, error } = FAULTS[result.code];
  return JSON.stringify({ statusCode, error, message: result.message });
}
