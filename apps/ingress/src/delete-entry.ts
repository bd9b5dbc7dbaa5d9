import { ANSWERS, type Answer, Fault, parseCustomerId } from '@opm/contract';
import type { RequestHandler } from 'express';
import { contextOf } from './express-classes.js';
import type { EntryDeps } from './post-entry.js';
import { findIdempotencyKey } from './reply-once.js';

/**
 * DELETE /entry/{customerId}. The answer promises that the erasure is queued durably, in version order with the entries.
 * It is queued where it is a 404, too: a dead letter may hold what no row does, and a replay that is under way has no
 * claim. So there is no claim to take back either, in the face of those that came after it.
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
