import { ANSWERS, parseEntry, parseJson } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Verdict } from './accept-entry.js';
import { contextOf, type RequestContext } from './express-classes.js';
import type { Overload } from './overload.js';
import type { RateLimiter } from './rate-limiter.js';
import { readBody } from './read-body.js';
import type { Reply } from './reply.js';
import { findIdempotencyKey, type ReplyOnce } from './reply-once.js';

/** Of what queues one entry, or one erasure. */
export type EntryDeps = {
  overload: Pick<Overload, 'check'>;
  acceptEntry: RateLimiter['acceptEntry'];
  reply: Reply;
  replyOnce: ReplyOnce;
};

/** POST /entry. The answer promises that the entry is queued durably, not that it is in PostgreSQL yet. */
export function postEntry(deps: EntryDeps): RequestHandler {
  const { overload, acceptEntry, reply, replyOnce } = deps;
  const queue = (context: RequestContext, body: Buffer) => acceptEntry(context, parseEntry(parseJson(body)));

  return (request, response, next) => {
    overload.check();
    const key = findIdempotencyKey(request);
    readBody(request, accept, next);

    function accept(body: Buffer): void {
      const context = contextOf(response);
      context.receivedAt = performance.now();
      if (key === undefined) queue(context, body).then(answer).catch(next);
      else {
        const act = async () => toAnswer(await queue(context, body));
        replyOnce(request, response, { key, body }, act).catch(next);
      }
    }
    function answer(verdict: Verdict): void {
      reply.answer(response, toAnswer(verdict));
    }
  };
}

const toAnswer = ({ existed }: Verdict) => (existed ? ANSWERS.updateAccepted : ANSWERS.created);
