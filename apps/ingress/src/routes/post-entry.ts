import { ANSWERS, type Answer, Fault, parseCustomerId, parseEntry, parseJson } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Slices } from '../guards/batch-limits.js';
import type { Overload } from '../guards/overload.js';
import type { RateLimiter } from '../guards/rate-limiter.js';
import { readBody } from '../http/read-body.js';
import type { Reply } from '../http/reply.js';
import { contextOf, type RequestContext } from '../http/request-context.js';
import type { Verdict } from '../ingest/accept-entry.js';
import { findIdempotencyKey, type ReplyOnce } from '../ingest/idempotency.js';

/** Dependencies of the handlers that enqueue an entry or an erasure. */
type EntryDeps = {
  overload: Pick<Overload, 'check'>;
  rateLimiter: Pick<RateLimiter, 'acceptEntry' | 'check'>;
  reply: Reply;
  replyOnce: ReplyOnce;
};

/**
 * An entry that contains only known fields is usually smaller. A larger body waits for a time slice before it is
 * parsed.
 */
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
        const operation = async () => toAnswer(await queue(context, body));
        replyOnce(request, response, { key, body }, operation).catch(next);
      }
    }
    function answer(verdict: Verdict): void {
      reply.answer(response, toAnswer(verdict));
    }
  };
}

const toAnswer = ({ existed }: Verdict) => (existed ? ANSWERS.updateAccepted : ANSWERS.created);

/**
 * DELETE /entry/{customerId}. The answer promises that the erasure is queued durably, in version order with the
 * entries. The erasure is queued even if the answer is 404: a dead letter may hold data of a customer without a row,
 * and a replay in flight has no claim. So the 404 needs no release of a claim, which later entries may already have
 * replaced.
 */
export function deleteEntry(deps: EntryDeps): RequestHandler {
  const { overload, rateLimiter, reply, replyOnce } = deps;
  return async (request, response) => {
    overload.check();
    const context = contextOf(response);
    rateLimiter.check(context);
    const key = findIdempotencyKey(request);
    if (key === undefined) reply.answer(response, await erase());
    else await replyOnce(request, response, { key }, erase);

    async function erase(): Promise<Answer> {
      const customerId = parseCustomerId(request.params.customerId);
      const { existed } = await rateLimiter.acceptEntry(context, { customerId, erase: true });
      if (!existed) throw new Fault('CUSTOMER_UNKNOWN');
      return ANSWERS.erasureAccepted;
    }
  };
}
