import type { IncomingMessage } from 'node:http';
import { ANSWERS, type Entry, Fault } from '@opm/contract';
import type { RequestHandler } from 'express';
import { createBatchMemory } from './batch-memory.js';
import { contextOf, type RequestContext } from './express-classes.js';
import type { Overload } from './overload.js';
import type { RateLimiter } from './rate-limiter.js';
import { isLines, readBatch, readWhole } from './read-batch.js';
import type { OnPart } from './read-body.js';
import type { Reply, Result } from './reply.js';
import { findIdempotencyKey, type ReplyOnce } from './reply-once.js';
import type { Slices } from './slices.js';

/**
 * POST /entries. The answer says of each entry whether it is queued durably. Entries go group by group: the next when the
 * one before is queued, so that a batch takes no more room than a few posts, and a customer's entries keep their order.
 * With an idempotency key all of it is read first: only its end tells whether it is the same batch again.
 */
export function postEntries(deps: {
  overload: Pick<Overload, 'check'>;
  rateLimiter: Pick<RateLimiter, 'acceptEntries' | 'charge' | 'check' | 'refuse'>;
  slices: Pick<Slices, 'next'>;
  /** Entries in one group at most. */
  groupSize: number;
  onShed: (reason: 'in-flight') => void;
  reply: Reply;
  replyOnce: ReplyOnce;
}): RequestHandler {
  const { overload, rateLimiter, slices, groupSize, onShed, reply, replyOnce } = deps;
  const memory = createBatchMemory(onShed);

  return async (request, response) => {
    overload.check();
    const context = contextOf(response);
    rateLimiter.check(context);
    const key = findIdempotencyKey(request);
    const held = memory.open(context.projectId);
    try {
      if (key === undefined) reply.batch(response, await acceptAll(context, request, held.take));
      else {
        const body = await readWhole(request, context, held.take);
        const act = (deadline: number) => acceptAll(context, request, held.take, body, deadline);
        await replyOnce(request, response, { key, body, asLines: isLines(request) }, act);
      }
    } finally {
      held.release();
    }
  };

  /** @throws Fault that refuses the batch, also where none of its entries could be queued */
  async function acceptAll(
    context: RequestContext,
    request: IncomingMessage,
    onPart: OnPart,
    body?: Buffer,
    deadline = Number.POSITIVE_INFINITY,
  ): Promise<Result[]> {
    const nextSlice = () => slices.next(context.projectId);
    let refusedTokens = 0;
    const onRefused = (tokens: number) => {
      refusedTokens += tokens;
    };
    const results: (Result | undefined)[] = []; // undefined for what was not tried
    let refusal: Fault | undefined;
    let isOver = false;
    for await (const group of readBatch(request, { context, onPart, groupSize, nextSlice, onRefused }, body)) {
      context.receivedAt = performance.now(); // how long the upload took is the partner's own
      if (context.receivedAt > deadline) refusal ??= new Fault('OVERLOADED');
      const entries = group.filter((item): item is Entry => !(item instanceof Fault));
      // What comes behind a refused entry is not tried: sent again, the earlier one would be the newer one.
      const outcomes: Result[] = refusal || isOver ? [] : await accept(context, entries);
      refusal ??= outcomes.find((outcome) => outcome instanceof Fault);
      isOver ||= outcomes.length < entries.length;
      let next = 0;
      for (const item of group) results.push(item instanceof Fault ? item : outcomes[next++]);
    }
    await rateLimiter.charge(context, refusedTokens);
    if (isOver) refusal ??= rateLimiter.refuse(context, results.filter((result) => !result).length);
    const told = results.map((result) => result ?? (refusal as Fault));
    if (refusal && told.every((result) => result instanceof Fault)) throw refusal;
    return told;
  }

  /** Of the first ones, where the project's limit is reached. */
  async function accept(context: RequestContext, entries: Entry[]): Promise<Result[]> {
    try {
      const outcomes = await rateLimiter.acceptEntries(context, entries);
      return outcomes.map((outcome) => {
        if (outcome instanceof Fault) return outcome;
        return outcome.existed ? ANSWERS.updateAccepted : ANSWERS.created;
      });
    } catch (error) {
      if (error instanceof Fault) return entries.map(() => error);
      throw error;
    }
  }
}
