import { isDeepStrictEqual } from 'node:util';
import type { CustomerEntry, RequestIds } from '@opm/core';
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

/**
 * `skipped` dead letters cannot be read as entries by this version and are kept. `traced`: replayed letters that stay
 * on record until their entry is rejected again; the others held a whole job, or an id that no column can hold.
 */
export type Replayed = { replayed: number; skipped: number; traced: number };

/** A store failed during the replay. Letters that are not counted in `done` are still dead letters. */
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
 * Requeues dead letters, oldest first, with their original versions, so newer data in the table is kept. An entry that
 * the database rejects again becomes a new dead letter, which this run does not touch.
 * @throws ReplayInterrupted if a store fails
 */
export async function replay(options: ReplayOptions): Promise<Replayed> {
  const { deadLetters, findErased, queue, shards, filter, rate, onProgress, signal } = options;
  const limit = Math.min(rate, MAX_PAGE);
  const throttle = pThrottle({ limit: 1, interval: (limit / rate) * 1_000 });
  const total: Replayed = { replayed: 0, skipped: 0, traced: 0 };
  let [afterId, throughId] = ['0', '0'];

  const replayPage = throttle(async (): Promise<boolean> => {
    const page = await deadLetters.page(filter, { afterId, throughId, limit });
    const readable = page.flatMap((letter) => toReadable(letter) ?? []);
    const ids = readable.map(({ deadLetterId }) => deadLetterId);
    let traced = 0;
    total.replayed += await deadLetters.take(ids, async (taken) => {
      const ofTaken = readable.filter(({ deadLetterId }) => taken.has(deadLetterId));
      traced = ofTaken.filter(({ isTraced }) => isTraced).length;
      const chunks = ofTaken.map(({ chunk }) => chunk);
      const left = await withoutErased(chunks, findErased);
      for (const { shard, chunk } of toChunks(left, shards)) await queue.requeue(shard, chunk);
    });
    total.traced += traced;
    total.skipped += page.length - readable.length;
    afterId = page.at(-1)?.deadLetterId ?? afterId;
    onProgress(page.length);
    return page.length === limit;
  });

  try {
    throughId = (await deadLetters.list(filter, { limit: 1 }))[0]?.deadLetterId ?? '0';
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
function toReadable({ deadLetterId, projectId, customerId, version, payload, requestIds }: WholeDeadLetter) {
  try {
    if (projectId === null) return { deadLetterId, chunk: parseChunk(payload), isTraced: false };
    if ('projectId' in (payload as object)) return undefined;
    const whole: ChunkEntry = { ...(payload as CustomerEntry), projectId };
    if (requestIds !== null) whole.requestIds = requestIds as RequestIds;
    const chunk = parseChunk(toChunkData({ entries: [whole] }));
    const isTraced = customerId !== null && version !== null;
    return isDeepStrictEqual(chunk.entries, [whole]) ? { deadLetterId, chunk, isTraced } : undefined;
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

/**
 * Queues the erasure of a customer, in version order with its entries, like a DELETE of the partner.
 * @throws Fault QUEUE_UNAVAILABLE
 */
export async function eraseCustomer(
  queue: Pick<EntryQueue, 'admit' | 'enqueue' | 'release'>,
  shards: number,
  { projectId, customerId }: { projectId: number; customerId: string },
): Promise<void> {
  const erasure = { projectId, customerId, erase: true as const };
  const shard = shardOf(projectId, customerId, shards);
  const { admitted } = await queue.admit(shard, [erasure]);
  const entries = admitted.map(({ version }) => ({ ...erasure, version }));
  await queue.enqueue(shard, { entries }).catch(async (error) => {
    await queue.release(shard, admitted);
    throw error;
  });
}
