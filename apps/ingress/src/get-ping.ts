import { ANSWERS } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Reply } from './reply.js';

/** GET /ping: the key is good. */
export function getPing({ reply }: { reply: Reply }): RequestHandler {
  return (_request, response) => reply.answer(response, ANSWERS.pong);
}
