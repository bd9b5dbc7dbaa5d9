import type { Queue } from 'bullmq';
import type { Admission } from './admission.js';
import { readUndone } from './backlog.js';
import { MAX_CHUNK_ENTRIES } from './chunk.js';
import { allDone, inTime } from './in-time.js';

/** No ingress enqueues what it has admitted so long ago. */
const ORPHAN_AGE_MS = 30 * 1_000;
/** A shard whose master is away would wait for it, and the other tasks behind that. */
const COUNT_TIMEOUT_MS = 10 * 1_000;
/** For what reads all claims. */
const SWEEP_TIMEOUT_MS = 50 * 1_000;

/**
 * Processes that were killed, and calls that came too late, leave entries that count as waiting, and claims without an entry.
 * This corrects both, in each shard by itself. @returns a function that rejects if a shard failed, when all are done
 */
export function createClearLeftovers(
  admission: Pick<Admission, 'limitBacklog' | 'sweep'>,
  queues: Queue[],
): () => Promise<void> {
  const shards = queues.map((queue, shard) => {
    /** @returns the version below which no entry waits, and when the jobs were read; undefined where that is not known */
    const count = inTime(async () => {
      const readAt = performance.now();
      const { oldest, entries, unknown } = await readUndone(queue);
      const unknownEntries = unknown * MAX_CHUNK_ENTRIES;
      const most = [...entries].map(([projectId, known]): [number, number] => [projectId, known + unknownEntries]);
      await admission.limitBacklog(shard, new Map(most), unknownEntries);
      return unknown === 0 ? { oldest, readAt } : undefined;
    }, COUNT_TIMEOUT_MS);
    const sweep = inTime(admission.sweep, SWEEP_TIMEOUT_MS);

    return async () => {
      const counted = await count();
      // A claim must have been that old when the jobs were read: what was enqueued since may be its own.
      if (counted) await sweep(shard, ORPHAN_AGE_MS + Math.ceil(performance.now() - counted.readAt), counted.oldest);
    };
  });
  return async () => void (await allDone(shards.map((clear) => clear())));
}
