import { isDeepStrictEqual } from 'node:util';
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

export type ReplayOptions = {
  deadLetters: DeadLetters;
  findErased: Customers['findErased'];
  queue: Pick<EntryQueue, 'requeue'>;
  shards: number;
  filter: DeadLetterFilter;
  /** Letters per second at most. */
  rate: number;
  onProgress: (handled: number) => void;
  /** Ends it after the letters that are under way. */
  signal: AbortSignal;
};

/** `skipped` ones hold nothing that a worker could read, and stay. */
export type Replayed = { replayed: number; skipped: number };

/** Something was away in the middle of it; what was not replayed before is a dead letter still. */
export class ReplayInterrupted extends Error {
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
 * Sends letters through the queue once more, the oldest first, with the versions that they had: what is newer in the
 * table stays. An entry that is refused again becomes a new letter, which this run leaves alone.
 * @throws ReplayInterrupted
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
 * A letter without a project holds a whole job's data, which a newer version of the worker may be able to read; so may an
 * entry that has more in it than what would be queued.
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
 * An erasure removes the letters of its customer, but not an entry in a job's data that no worker could read. That must not be
 * queued: its tombstone might be purged while it waits.
 */
async function withoutErased(chunks: Chunk[], findErased: Customers['findErased']): Promise<ChunkEntry[]> {
  const all = chunks.flatMap(({ entries }) => entries);
  const erased = await findErased(all);
  return all.filter((_, i) => !erased.has(i));
}

/** As few chunks per shard as there may be. */
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
