import type { IncomingMessage } from 'node:http';
import { type Entry, Fault } from '@opm/contract';
import type { RequestHandler, Response } from 'express';
import type { BatchMemory, Slices } from '../guards/batch-limits.js';
import type { Overload } from '../guards/overload.js';
import type { RateLimiter } from '../guards/rate-limiter.js';
import type { Inflate, OnPart } from '../http/read-body.js';
import { type EntryAnswer, type Reply, toAccepted } from '../http/reply.js';
import { contextOf, type RequestContext } from '../http/request-context.js';
import { type AcceptEntries, type Results, toText } from '../ingest/call.js';
import { type AcceptKeyed, BATCH, toKeyed } from '../ingest/idempotency.js';
import { checkRequest } from './post-entry.js';
import { type BatchItem, readBatch, readWhole, regroup } from './read-batch.js';

/** `refusedTokens`: the tokens of refused entries of the groups that have been read. */
type Batch = { groups: AsyncIterable<BatchItem[]> | Iterable<BatchItem[]>; refusedTokens: number };

/** Accepts a group's entries; `first` is the place of the first of them among the batch's valid entries. */
type AcceptGroup = (entries: Entry[], first: number) => Promise<Results>;

/**
 * POST /entries. The answer says for each entry whether it is queued durably. Entries are queued group by group, each
 * after the one before, so that a batch uses no more resources than a few single posts and a customer's entries keep
 * their order. With an idempotency key the whole batch is parsed first, because only all of it tells whether it is a
 * repeat.
 */
export function postEntries(deps: {
  overload: Pick<Overload, 'check'>;
  rateLimiter: Pick<RateLimiter, 'charge' | 'check' | 'refuse' | 'take'>;
  acceptEntries: AcceptEntries;
  acceptKeyed: AcceptKeyed;
  slices: Pick<Slices, 'next'>;
  inflate: Inflate;
  /** Maximum entries in one group. */
  groupSize: number;
  memory: BatchMemory;
  reply: Reply;
}): RequestHandler {
  const { overload, rateLimiter, acceptEntries, acceptKeyed, slices, inflate, groupSize, memory, reply } = deps;

  return async (request, response) => {
    const context = checkRequest({ overload, rateLimiter }, request, response);
    const key = context.requestIds?.idempotencyKey;
    const held = memory.open(context.projectId);
    try {
      const results =
        key === undefined
          ? await acceptGroups(response, openBatch(context, request, held.take), async (entries) => {
              const taken = await rateLimiter.take(context, entries.length);
              return taken === 0 ? [] : acceptEntries(context, entries.slice(0, taken));
            })
          : await acceptWithKey(context, request, held.take, key, response);
      reply.batch(response, results);
    } finally {
      held.release();
    }
  };

  function openBatch(context: RequestContext, request: IncomingMessage, onPart: OnPart, body?: Buffer): Batch {
    const batch: Batch = { groups: [], refusedTokens: 0 };
    const nextSlice = () => slices.next(context.projectId);
    const onRefused = (tokens: number) => {
      batch.refusedTokens += tokens;
    };
    batch.groups = readBatch(request, { context, onPart, inflate, groupSize, nextSlice, onRefused }, body);
    return batch;
  }

  /** Accepts a batch with an idempotency key, and marks the response if it is a replay. */
  async function acceptWithKey(
    context: RequestContext,
    request: IncomingMessage,
    onPart: OnPart,
    key: string,
    response: Response,
  ): Promise<EntryAnswer[]> {
    const body = await readWhole(request, { context, onPart, inflate });
    const batch = openBatch(context, request, onPart, body);
    const items: BatchItem[] = [];
    const texts: string[] = [];
    for await (const group of batch.groups) {
      items.push(...group);
      texts.push(...group.map(toText));
    }
    const keyed = toKeyed(context.projectId, key, BATCH, texts);
    let notReplayed = items.filter((item) => !(item instanceof Fault)).length;
    const whole: Batch = { groups: regroup(items, groupSize), refusedTokens: batch.refusedTokens };
    return acceptGroups(response, whole, async (entries, first) => {
      const outcomes = await acceptKeyed(context, keyed, entries, first);
      for (const outcome of outcomes) if (outcome && 'isReplayed' in outcome) notReplayed--;
      if (entries.length > 0 && notReplayed === 0) {
        whole.refusedTokens = 0; // the first attempt has paid for them
        response.setHeader('idempotent-replayed', 'true');
      }
      return outcomes;
    });
  }

  /** @throws Fault that refuses the batch; also if none of its entries could be queued */
  async function acceptGroups(response: Response, batch: Batch, acceptGroup: AcceptGroup): Promise<EntryAnswer[]> {
    const context = contextOf(response);
    const results: (EntryAnswer | undefined)[] = []; // undefined: not tried
    let validBefore = 0; // entries of earlier groups
    let refusal: Fault | undefined;
    let isOver = false;
    try {
      for await (const group of batch.groups) {
        context.receivedAt = performance.now(); // the duration of the upload does not count as time to answer
        const entries = group.filter((item): item is Entry => !(item instanceof Fault));
        // Entries after a refused one are not tried: a retry would give the refused, earlier entry the higher version.
        const outcomes = refusal || isOver ? [] : await toAnswers(entries, validBefore, acceptGroup);
        validBefore += entries.length;
        refusal ??= outcomes.find((outcome) => outcome instanceof Fault);
        isOver ||= entries.some((_, i) => outcomes[i] === undefined);
        let next = 0;
        for (const item of group) results.push(item instanceof Fault ? item : outcomes[next++]);
      }
    } catch (error) {
      // The upload broke off, or its rest is invalid. The lines before that stay accepted.
      reply.countResults(
        response,
        results.flatMap((result) => result ?? []),
      );
      throw error;
    }
    await rateLimiter.charge(context, batch.refusedTokens);
    if (isOver) refusal ??= rateLimiter.refuse(context, results.filter((result) => !result).length);
    const answers = results.map((result) => result ?? (refusal as Fault));
    if (refusal && answers.every((result) => result instanceof Fault)) {
      context.isCounted = true;
      reply.countResults(response, answers);
      throw toRefusal(refusal, answers);
    }
    return answers;
  }

  /** @returns one result per entry. Undefined, or missing at the end, for entries beyond the rate limit */
  async function toAnswers(
    entries: Entry[],
    first: number,
    acceptGroup: AcceptGroup,
  ): Promise<(EntryAnswer | undefined)[]> {
    try {
      const outcomes = await acceptGroup(entries, first);
      return outcomes.map((outcome, i) => {
        return outcome === undefined || outcome instanceof Fault ? outcome : toAccepted(outcome, entries[i] as Entry);
      });
    } catch (error) {
      if (error instanceof Fault) return entries.map(() => error);
      throw error;
    }
  }
}

/**
 * The fault that answers a whole batch. If any entry may have been queued, the fault must not say that none was: the
 * partner could then send newer entries to another ingress, and an older one could overwrite them.
 */
export const toRefusal = (first: Fault, answers: Fault[]): Fault =>
  answers.find(({ code }) => code === 'QUEUE_UNAVAILABLE') ?? first;
