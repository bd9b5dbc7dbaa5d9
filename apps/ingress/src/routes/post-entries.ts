import type { IncomingMessage } from 'node:http';
import { ANSWERS, type Entry, Fault } from '@opm/contract';
import type { RequestHandler } from 'express';
import { createBatchMemory, type Slices } from '../guards/batch-limits.js';
import type { Overload } from '../guards/overload.js';
import type { RateLimiter } from '../guards/rate-limiter.js';
import type { OnPart } from '../http/read-body.js';
import type { Reply, Result } from '../http/reply.js';
import { contextOf, type RequestContext } from '../http/request-context.js';
import { findIdempotencyKey, type ReplyOnce } from '../ingest/idempotency.js';
import { isLines, readBatch, readWhole } from './read-batch.js';

/**
 * POST /entries. The answer says for each entry whether it is queued durably. Entries are queued group by group, each
 * after the one before, so that a batch uses no more resources than a few single posts and a customer's entries keep
 * their order. With an idempotency key the whole body is read first, because only all of it tells whether the batch is
 * a repeat.
 */
export function postEntries(deps: {
  overload: Pick<Overload, 'check'>;
  rateLimiter: Pick<RateLimiter, 'acceptEntries' | 'charge' | 'check' | 'refuse'>;
  slices: Pick<Slices, 'next'>;
  /** Maximum entries in one group. */
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
        const operation = (deadline: number) => acceptAll(context, request, held.take, body, deadline);
        await replyOnce(request, response, { key, body, asLines: isLines(request) }, operation);
      }
    } finally {
      held.release();
    }
  };

  /** @throws Fault that refuses the batch; also if none of its entries could be queued */
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
    const results: (Result | undefined)[] = []; // undefined: not tried
    let refusal: Fault | undefined;
    let isOver = false;
    for await (const group of readBatch(request, { context, onPart, groupSize, nextSlice, onRefused }, body)) {
      context.receivedAt = performance.now(); // the duration of the upload does not count as time to answer
      if (context.receivedAt > deadline) refusal ??= new Fault('OVERLOADED');
      const entries = group.filter((item): item is Entry => !(item instanceof Fault));
      // Entries after a refused one are not tried: a retry would give the refused, earlier entry the higher version.
      const outcomes: Result[] = refusal || isOver ? [] : await accept(context, entries);
      refusal ??= outcomes.find((outcome) => outcome instanceof Fault);
      isOver ||= outcomes.length < entries.length;
      let next = 0;
      for (const item of group) results.push(item instanceof Fault ? item : outcomes[next++]);
    }
    await rateLimiter.charge(context, refusedTokens);
    if (isOver) refusal ??= rateLimiter.refuse(context, results.filter((result) => !result).length);
    const answers = results.map((result) => result ?? (refusal as Fault));
    if (refusal && answers.every((result) => result instanceof Fault)) throw refusal;
    return answers;
  }

  /** @returns one result per entry; only those of the first entries if the project's rate limit is reached */
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
