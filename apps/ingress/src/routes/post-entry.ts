import { Fault, parseCustomerId, parseEntry, parseJson } from '@opm/contract';
import type { Request, RequestHandler, Response } from 'express';
import type { Slices } from '../guards/batch-limits.js';
import type { Overload } from '../guards/overload.js';
import type { RateLimiter } from '../guards/rate-limiter.js';
import { ENTRY_LIMIT, type Inflate, readBody } from '../http/read-body.js';
import { type Reply, toAccepted } from '../http/reply.js';
import { contextOf, findRequestIds, type RequestContext } from '../http/request-context.js';
import { type AcceptEntry, type EntryInput, toText, type Verdict } from '../ingest/call.js';
import { type AcceptKeyed, toKeyed } from '../ingest/idempotency.js';

/** Dependencies of the handlers that enqueue an entry or an erasure. */
type EntryDeps = {
  overload: Pick<Overload, 'check'>;
  rateLimiter: Pick<RateLimiter, 'check' | 'refuse' | 'take'>;
  acceptEntry: AcceptEntry;
  acceptKeyed: AcceptKeyed;
  reply: Reply;
};

/**
 * An entry that contains only known fields is usually smaller. A larger body waits for a time slice before it is
 * parsed.
 */
const SMALL_BYTES = 2 * 1024;

/** POST /entry. The answer promises that the entry is queued durably, not that it is in PostgreSQL yet. */
export function postEntry(deps: EntryDeps & { slices: Pick<Slices, 'next'>; inflate: Inflate }): RequestHandler {
  const { slices, inflate, reply } = deps;
  const reading = { limit: ENTRY_LIMIT, inflate };
  const accept = createAccept(deps, 'POST /entry');

  return (request, response, next) => {
    const context = checkRequest(deps, request, response);
    readBody(request, context, take, next, reading);

    function take(body: Buffer): void {
      context.receivedAt = performance.now();
      const slice = body.length > SMALL_BYTES ? slices.next(context.projectId) : undefined;
      if (slice) slice.then(() => answer(body)).catch(next);
      else answer(body);
    }
    function answer(body: Buffer): void {
      const entry = parseEntry(parseJson(body));
      accept(context, entry, response)
        .then((verdict) => reply.accepted(response, toAccepted(verdict, entry)))
        .catch(next);
    }
  };
}

/**
 * DELETE /entry/{customerId}. The answer promises that the erasure is queued durably, in version order with the
 * entries. The erasure is queued even if the answer is 404: a dead letter may hold data of a customer without a row,
 * and a replay in flight has no claim. So the 404 needs no release of a claim, which later entries may already have
 * replaced.
 */
export function deleteEntry(deps: EntryDeps): RequestHandler {
  const accept = createAccept(deps, 'DELETE /entry');
  return async (request, response) => {
    const context = checkRequest(deps, request, response);
    const entry: EntryInput = { customerId: parseCustomerId(request.params.customerId), erase: true };
    const verdict = await accept(context, entry, response);
    if (!verdict.existed) throw new Fault('CUSTOMER_UNKNOWN');
    deps.reply.accepted(response, toAccepted(verdict, entry, 'erasureAccepted'));
  };
}

/**
 * Refuses the request if this process is overloaded or the project has reached its rate limit. Reads the partner's ids
 * of the request.
 */
export function checkRequest(
  { overload, rateLimiter }: { overload: Pick<Overload, 'check'>; rateLimiter: Pick<RateLimiter, 'check'> },
  request: Request,
  response: Response,
): RequestContext {
  overload.check();
  const context = contextOf(response);
  rateLimiter.check(context);
  context.requestIds = findRequestIds(request);
  return context;
}

/** Accepts an entry, with or without an idempotency key. A project with a rate limit pays a token. */
function createAccept({ rateLimiter, acceptEntry, acceptKeyed }: EntryDeps, operation: string) {
  async function acceptLimited(context: RequestContext, entry: EntryInput): Promise<Verdict> {
    if ((await rateLimiter.take(context, 1)) === 0) throw rateLimiter.refuse(context, 1);
    return acceptEntry(context, entry);
  }

  /** Marks the response if it is a replay. */
  async function acceptWithKey(
    context: RequestContext,
    key: string,
    entry: EntryInput,
    response: Response,
  ): Promise<Verdict> {
    const keyed = toKeyed(context.projectId, key, operation, [toText(entry)]);
    const [result] = await acceptKeyed(context, keyed, [entry], 0);
    if (result === undefined) throw rateLimiter.refuse(context, 1);
    if (result instanceof Fault) throw result;
    if (result.isReplayed) response.setHeader('idempotent-replayed', 'true');
    return result;
  }

  return (context: RequestContext, entry: EntryInput, response: Response): Promise<Verdict> => {
    const key = context.requestIds?.idempotencyKey;
    if (key !== undefined) return acceptWithKey(context, key, entry, response);
    return context.limit ? acceptLimited(context, entry) : acceptEntry(context, entry);
  };
}
