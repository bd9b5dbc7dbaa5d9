import { Fault } from '@opm/contract';
import type { Admission } from './admission.js';
import type { Chunk } from './chunk.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { JOB_OPTIONS } from './retry-policy.js';
import { addressOf } from './shards.js';

export type EntryQueueOptions = QueueConfig & { signal: AbortSignal; onError: (error: Error) => void };

/** The producer's side. Each call fails within about a second when the store is away: Fault QUEUE_UNAVAILABLE. */
export type EntryQueue = Pick<Admission, 'admit' | 'release'> & {
  /** Resolves once the chunk is stored: then, and not before, its partners may be answered. Returns the job's id. */
  enqueue(shard: number, chunk: Chunk): Promise<string>;
  /** The names of the queues that no worker process takes jobs from at present. */
  findIdle(): Promise<string[]>;
  /** @throws Error that says what to change */
  check(): Promise<void>;
  close(): Promise<void>;
};

/** Waits for the store to answer once; from then on it recovers by itself. @throws the reason of the signal's abort */
export async function createEntryQueue({ signal, onError, ...config }: EntryQueueOptions): Promise<EntryQueue> {
  const backend = await connectQueueBackend(config, 'producer', { signal, onError });
  const queues = Array.from({ length: config.shards }, (_, shard) => backend.createQueue(addressOf(shard)));
  const { admission } = backend;
  return {
    admit: (...call) => admission.admit(...call).catch(throwUnavailable),
    release: (...call) => admission.release(...call).catch(throwUnavailable),
    async enqueue(shard, chunk) {
      const job = await queueOf(queues, shard).add('chunk', chunk, JOB_OPTIONS).catch(throwUnavailable);
      return job.id ?? '';
    },
    async findIdle() {
      const counts = await Promise.all(queues.map((queue) => queue.getWorkersCount())).catch(throwUnavailable);
      return queues.filter((_, shard) => counts[shard] === 0).map(({ name }) => name);
    },
    check: () => backend.check(),
    async close() {
      await Promise.all(queues.map((queue) => queue.close()));
      await backend.close();
    },
  };
}

function queueOf<Q>(queues: Q[], shard: number): Q {
  const queue = queues[shard];
  if (!queue) throw new RangeError(`there is no shard ${shard}`);
  return queue;
}

function throwUnavailable(cause: unknown): never {
  throw new Fault('QUEUE_UNAVAILABLE', { cause });
}
