import { setTimeout as delay } from 'node:timers/promises';
import { Fault, parseEntry } from '@opm/contract';
import type { CustomerEntry, Version } from '@opm/core';
import { type EntryQueue, shardOf } from '@opm/queue';
import pRetry from 'p-retry';
import { QUEUE_RETRIES } from '../assert-worked.js';
import type { Line } from './line.js';

export type ImportOptions = {
  lines: AsyncIterable<Line[]>;
  projectId: number;
  queue: Pick<EntryQueue, 'requeue' | 'load'>;
  shards: number;
  /** Each line's version is this and its number: later lines win, and the same file imported again changes nothing. */
  before: Version;
  onRejected: (line: Line, reason: string) => void;
  onProgress: (counts: Imported) => void;
  /** Hears, in few words, of what there is too much while there is no room in the queue; undefined when there is. */
  onWaiting: (tooMuch: string | undefined) => void;
  /** Ends it after the chunk that is under way. */
  signal: AbortSignal;
};

export type Imported = { imported: number; rejected: number };

/** As many as two statements of the worker: what waits beside them is hardly held up. */
const CHUNK_ENTRIES = 500;
/** What partners send goes first, and the queue's memory is theirs. */
const MAX_WAITING_ENTRIES = 50_000;
const MAX_MEMORY_USE = 0.7;
const POLL_MS = 100;

/** Sends the lines of a file through the queue. @throws Fault QUEUE_UNAVAILABLE */
export async function importCustomers(options: ImportOptions): Promise<Imported> {
  const { lines, projectId, queue, shards, before, onRejected, onProgress, onWaiting, signal } = options;
  const chunks = Array.from({ length: shards }, (): CustomerEntry[] => []);
  const counts: Imported = { imported: 0, rejected: 0 };

  for await (const some of lines) {
    for (const line of some) {
      if (signal.aborted) return counts;
      const entry = toEntry(line);
      if (!entry) continue;
      const shard = shardOf(projectId, entry.customerId, shards);
      const chunk = chunks[shard] as CustomerEntry[];
      chunk.push(entry);
      if (chunk.length === CHUNK_ENTRIES) await send(shard);
    }
    onProgress(counts);
  }
  for (const shard of chunks.keys()) await send(shard);
  onProgress(counts);
  return counts;

  function toEntry(line: Line): CustomerEntry | undefined {
    try {
      return { ...parseEntry(line.toBody()), version: before + line.number };
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      counts.rejected++;
      onRejected(line, error.message);
    }
  }

  async function send(shard: number): Promise<void> {
    const entries = chunks[shard] as CustomerEntry[];
    if (entries.length === 0) return;
    const isSent = await pRetry(async () => {
      if (!(await waitForRoom())) return false;
      await queue.requeue(shard, { entries: entries.map((entry) => ({ projectId, ...entry })) });
      return true;
    }, QUEUE_RETRIES);
    if (!isSent) return;
    chunks[shard] = [];
    counts.imported += entries.length;
    onProgress(counts);
  }

  /** False where it was told to end meanwhile. */
  async function waitForRoom(): Promise<boolean> {
    while (!signal.aborted) {
      const { entries, memory } = await queue.load();
      const isFull = entries >= MAX_WAITING_ENTRIES;
      const tooMuch = isFull
        ? `${entries} queued`
        : memory >= MAX_MEMORY_USE
          ? `memory ${Math.round(memory * 100)} %`
          : undefined;
      onWaiting(tooMuch);
      if (!tooMuch) return true;
      await delay(POLL_MS);
    }
    return false;
  }
}
