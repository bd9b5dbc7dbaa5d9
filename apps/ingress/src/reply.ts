import type { ServerResponse } from 'node:http';
import { ANSWERS, type Answer, FAULTS, type Fault } from '@opm/contract';

export type AnswerCounter = { inc(labels: { status: number }): void };
export type Reply = ReturnType<typeof createReply>;

const JSON_TYPE = 'application/json; charset=utf-8';

/** Bodies that never change, made once. */
const BODIES = new Map<Answer, Buffer>(
  Object.values(ANSWERS).map((answer) => [answer, Buffer.from(JSON.stringify(answer))]),
);

/** The only way to answer: every body is JSON, every answer is counted. */
export function createReply(answers: AnswerCounter) {
  function send(response: ServerResponse, status: number, body: Buffer): void {
    answers.inc({ status });
    response.statusCode = status;
    response.setHeader('content-type', JSON_TYPE);
    response.setHeader('content-length', body.length);
    response.end(body);
  }
  return {
    answer(response: ServerResponse, answer: Answer): void {
      send(response, answer.statusCode, BODIES.get(answer) ?? Buffer.from(JSON.stringify(answer)));
    },
    fault(response: ServerResponse, fault: Fault): void {
      const entry = FAULTS[fault.code];
      if ('retryAfterSeconds' in entry) response.setHeader('retry-after', entry.retryAfterSeconds);
      const { statusCode, error } = entry;
      send(response, statusCode, Buffer.from(JSON.stringify({ statusCode, error, message: fault.message })));
    },
  };
}
