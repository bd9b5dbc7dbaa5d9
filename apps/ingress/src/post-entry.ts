import { ANSWERS, parseEntry, parseJson } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Verdict } from './accept-entry.js';
import { contextOf, type RequestContext } from './express-classes.js';
import type { Overload } from './overload.js';
import type { RateLimiter } from './rate-limiter.js';
import { readBody } from './read-body.js';
import type { Reply } from './reply.js';
import { findIdempotencyKey, type ReplyOnce } from './reply-once.js';
import type { Slices } from './slices.js';

/** Of what queues one entry, or one erasure. */
export type EntryDeps = {
  overload: Pick<Overload, 'check'>;
  rateLimiter: Pick<RateLimiter, 'acceptEntry' | 'check'>;
  reply: Reply;
  replyOnce: ReplyOnce;
};

/** Entries are smaller than that, if their fields are all that is in them. */
const SMALL_BYTES = 2 * 1024;

/** POST /entry. The answer promises that the entry is queued durably, not that it is in PostgreSQL yet. */
export function postEntry(deps: EntryDeps & { slices: Pick<Slices, 'next'> }): RequestHandler {
  const { overload, rateLimiter, slices, reply, replyOnce } = deps;
  const queue = (context: RequestContext, body: Buffer) =>
    rateLimiter.acceptEntry(context, parseEntry(parseJson(body)));

  return (request, response, next) => {
    overload.check();
    const context = contextOf(response);
    rateLimiter.check(context);
    const key = findIdempotencyKey(request);
    readBody(request, context, take, next);

    function take(body: Buffer): void {
      context.receivedAt = performance.now();
      const slice = body.length > SMALL_BYTES ? slices.next(context.projectId) : undefined;
      if (slice) slice.then(() => accept(body)).catch(next);
      else accept(body);
    }
    function accept(body: Buffer): void {
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
