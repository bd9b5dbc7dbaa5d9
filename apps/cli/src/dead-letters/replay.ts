import { isDeepStrictEqual } from 'node:util';
import { Fault } from '@opm/contract';
import type { CustomerEntry } from '@opm/core';
import {
  type Chunk,
  type ChunkEntry,
  type EntryQueue,
  MAX_CHUNK_ENTRIES,
  parseChunk,
  shardOf,
  toChunkData,
} from '@opm/queue';
import type { Customers, DeadLetterFilter, DeadLetters, WholeDeadLetter } from '@opm/store';
import pThrottle from 'p-throttle';
import { createBar } from '../print.js';
import { UserError, withInterrupt } from '../user-error.js';
import { type QueueFlags, toOperatorText, withQueue } from '../with-queue.js';
import { recordChange, withStore } from '../with-store.js';
import { countAll, type FilterOptions, toAudited, toFilter, toLetters } from './filter-options.js';

type ReplayOptions = {
  deadLetters: DeadLetters;
  findErased: Customers['findErased'];
  queue: Pick<EntryQueue, 'requeue'>;
  shards: number;
  filter: DeadLetterFilter;
  /** Maximum dead letters per second. */
  rate: number;
  onProgress: (handled: number) => void;
  /** Ends the replay after the current page. */
  signal: AbortSignal;
};

/** `skipped` dead letters cannot be read as entries by this version and are kept. */
export type Replayed = { replayed: number; skipped: number };

/** A store failed during the replay. Letters that are not counted in `done` are still dead letters. */
class ReplayInterrupted extends Error {
  override readonly name = 'ReplayInterrupted';
  constructor(
    readonly done: Replayed,
    cause: unknown,
  ) {
    super('replaying was interrupted', { cause });
  }
}

const MAX_PAGE = 100;

/**
 * Requeues dead letters, oldest first, with their original versions, so newer data in the table is kept. An entry that
 * the database rejects again becomes a new dead letter, which this run does not touch.
 * @throws ReplayInterrupted if a store fails
 */
export async function replay(options: ReplayOptions): Promise<Replayed> {
  const { deadLetters, findErased, queue, shards, filter, rate, onProgress, signal } = options;
  const limit = Math.min(rate, MAX_PAGE);
  const throttle = pThrottle({ limit: 1, interval: (limit / rate) * 1_000 });
  const throughId = (await deadLetters.list(filter, { limit: 1 }))[0]?.deadLetterId ?? '0';
  const total: Replayed = { replayed: 0, skipped: 0 };
  let afterId = '0';

  const replayPage = throttle(async (): Promise<boolean> => {
    const page = await deadLetters.page(filter, { afterId, throughId, limit });
    const readable = page.flatMap((letter) => toReadable(letter) ?? []);
    const ids = readable.map(({ deadLetterId }) => deadLetterId);
    total.replayed += await deadLetters.take(ids, async (taken) => {
      const chunks = readable.filter(({ deadLetterId }) => taken.has(deadLetterId)).map(({ chunk }) => chunk);
      const left = await withoutErased(chunks, findErased);
      for (const { shard, chunk } of toChunks(left, shards)) await queue.requeue(shard, chunk);
    });
    total.skipped += page.length - readable.length;
    afterId = page.at(-1)?.deadLetterId ?? afterId;
    onProgress(page.length);
    return page.length === limit;
  });

  try {
    while (!signal.aborted && (await replayPage()));
    return total;
  } catch (cause) {
    throw new ReplayInterrupted(total, cause);
  }
}

/**
 * Reads a dead letter as a chunk. A letter without a project holds the data of a whole job. Data that this version
 * cannot read in full may be readable by a newer version.
 * @returns undefined if the letter has to be skipped
 */
function toReadable({ deadLetterId, projectId, payload }: WholeDeadLetter) {
  try {
    if (projectId === null) return { deadLetterId, chunk: parseChunk(payload) };
    if ('projectId' in (payload as object)) return undefined;
    const whole = { ...(payload as CustomerEntry), projectId };
    const chunk = parseChunk(toChunkData({ entries: [whole] }));
    return isDeepStrictEqual(chunk.entries, [whole]) ? { deadLetterId, chunk } : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Removes entries that an erasure covers. An erasure deletes its customer's dead letters, but not an entry inside a
 * letter that holds a whole job's data. Such an entry must not be queued: its tombstone might be purged while it waits.
 */
async function withoutErased(chunks: Chunk[], findErased: Customers['findErased']): Promise<ChunkEntry[]> {
  const all = chunks.flatMap(({ entries }) => entries);
  const erased = await findErased(all);
  return all.filter((_, i) => !erased.has(i));
}

/** Groups entries into as few chunks per shard as possible. */
function toChunks(entries: ChunkEntry[], shards: number): { shard: number; chunk: Chunk }[] {
  const byShard = new Map<number, ChunkEntry[]>();
  for (const entry of entries) {
    const shard = shardOf(entry.projectId, entry.customerId, shards);
    const known = byShard.get(shard);
    if (known) known.push(entry);
    else byShard.set(shard, [entry]);
  }
  return [...byShard].flatMap(([shard, ofShard]) => {
    const chunks: { shard: number; chunk: Chunk }[] = [];
    for (let i = 0; i < ofShard.length; i += MAX_CHUNK_ENTRIES) {
      chunks.push({ shard, chunk: { entries: ofShard.slice(i, i + MAX_CHUNK_ENTRIES) } });
    }
    return chunks;
  });
}

export type ReplayFlags = QueueFlags & FilterOptions & { rate: number; dryRun?: true };

/** Replays with a progress bar on stderr, until Ctrl-C. @throws UserError */
export async function replayWithBar(
  env: NodeJS.ProcessEnv,
  options: ReplayFlags,
): Promise<Replayed & { isStopped: boolean }> {
  return withStore(env, async (store) => {
    const filter = await toFilter(store, options);
    const total = countAll(await store.deadLetters.count(filter));
    const replayAll = (signal: AbortSignal) =>
      withQueue(env, options, async (queue, shards) => {
        await recordChange(store, { action: 'dead-letters replay', ...toAudited(options, filter) });
        const bar = createBar('replay');
        bar.start(total);
        try {
          const done = await replay({
            deadLetters: store.deadLetters,
            findErased: store.customers.findErased,
            queue,
            shards,
            filter,
            rate: options.rate,
            onProgress: (handled) => bar.increment(handled),
            signal,
          });
          return { ...done, isStopped: signal.aborted };
        } catch (error) {
          if (!(error instanceof ReplayInterrupted)) throw error;
          throw new UserError(
            `${toReason(error.cause)}; requeued ${toLetters(error.done.replayed)}, the rest are still dead letters`,
          );
        } finally {
          bar.stop();
        }
      });
    return withInterrupt(replayAll);
  });
}

function toReason(error: unknown): string {
  const { message, cause } = error as Error;
  return cause instanceof Fault ? toOperatorText(cause) : message;
}
