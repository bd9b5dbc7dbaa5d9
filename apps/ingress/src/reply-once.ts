import { Fault, parseIdempotencyKey } from '@opm/contract';
import type { Request, Response } from 'express';
import type { Act, AnswerOnce, Keyed } from './answer-once.js';
import { contextOf } from './express-classes.js';
import type { Reply } from './reply.js';

/** Answers a request that has an idempotency key. @throws Fault that is the answer */
export type ReplyOnce = (request: Request, response: Response, keyed: Keyed, act: Act) => Promise<void>;

/** A replay is the first answer byte for byte, and says that it is one. */
export function createReplyOnce({ answerOnce, reply }: { answerOnce: AnswerOnce; reply: Reply }): ReplyOnce {
  return async (request, response, keyed, act) => {
    const { method, originalUrl: path } = request;
    const outcome = await answerOnce({ projectId: contextOf(response).projectId, method, path, ...keyed }, act);
    if ('replayed' in outcome) {
      response.setHeader('idempotent-replayed', 'true');
      return reply.json(response, outcome.replayed.status, outcome.replayed.body);
    }
    const { told } = outcome;
    if (told instanceof Fault) throw told;
    if (Array.isArray(told)) reply.batch(response, told);
    else reply.answer(response, told);
  };
}

/** The key of a request that has one. @throws Fault IDEMPOTENCY_KEY_INVALID or IDEMPOTENCY_KEY_REPEATED */
export function findIdempotencyKey(request: Request): string | undefined {
  if (request.headers['idempotency-key'] === undefined) return undefined;
  return parseIdempotencyKey(request.headersDistinct['idempotency-key'] ?? []); // `headers` joins what is given twice
}
