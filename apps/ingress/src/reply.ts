import { ANSWERS, type Answer, FAULTS, type Fault } from '@opm/contract';
import type { Logger } from '@opm/runtime';
import type { Response } from 'express';
import { contextOf } from './express-classes.js';
import type { Measures } from './measures.js';
import { requestIdOf } from './request-id.js';

export type Reply = ReturnType<typeof createReply>;

const JSON_TYPE = 'application/json; charset=utf-8';
const SLOW_MS = 1_000;
/** Not more than ten lines a second: when one request is slow, they all are. */
const SLOW_LOG_INTERVAL_MS = 100;

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
  function send(response: Response, status: number, body: string): number {
    const requestId = requestIdOf(response);
    const length = Buffer.byteLength(body);
    // One flat list, because Node keeps headers that are set one by one in an object of their own first.
    response.writeHead(status, ['x-request-id', requestId, 'content-type', JSON_TYPE, 'content-length', length]);
    response.end(body);
    const ms = performance.now() - contextOf(response).receivedAt;
    if (ms > SLOW_MS) logSlow({ requestId, status, ms: Math.round(ms) });
    measures.onAnswer(response.req.route?.path ?? 'none', status);
    return ms;
  }

  return {
    answer(response: Response, answer: Answer): void {
      const ms = send(response, answer.statusCode, BODIES.get(answer) ?? JSON.stringify(answer));
      if (answer !== ANSWERS.pong) measures.onAck(ms / 1_000);
    },
    fault(response: Response, fault: Fault): void {
      const entry = FAULTS[fault.code];
      if ('retryAfterSeconds' in entry) response.setHeader('retry-after', entry.retryAfterSeconds);
      const { statusCode, error } = entry;
      send(response, statusCode, JSON.stringify({ statusCode, error, message: fault.message }));
    },
  };
}
