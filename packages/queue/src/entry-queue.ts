import { Fault } from '@opm/contract';
import type { Admission } from './admission.js';
import { agreeOnShards, checkWithShards } from './agree-on-shards.js';
import { type Chunk, toChunkData } from './chunk.js';
import { toWorst } from './clock-skew.js';
import type { Idempotency } from './idempotency.js';
import { toJobId } from './job-id.js';
import { toPriority } from './priority.js';
import { connectQueueBackend, type QueueBackend, type QueueConfig } from './queue-backend.js';
import { JOB_OPTIONS } from './retry-policy.js';
import { toAddresses } from './shards.js';
import type { TokenBuckets } from './token-buckets.js';

export type EntryQueueOptions = QueueConfig & { signal: AbortSignal; onError: (error: Error) => void };

/** How full the queue is: entries of all projects and shards, and the part of its store's memory that is in use, 0 to 1. */
export type QueueLoad = { entries: number; memory: number };

/** The producer's side. Each call fails within about a second when the store is away: Fault QUEUE_UNAVAILABLE. */
export type EntryQueue = Pick<Admission, 'admit' | 'release' | 'readClaims'> & {
  idempotency: Pick<Idempotency, 'begin' | 'end'>;
  lease: TokenBuckets['lease'];
  /**
   * Resolves once the chunk is stored: then, and not before, its partners may be answered. Returns the job's id.
   * @param priority see `toPriority`: the greater, the later is its turn
   */
  enqueue(shard: number, chunk: Chunk, priority?: number): Promise<string>;
  /** Stores a chunk whose entries keep their versions. Returns the job's id. */
  requeue(shard: number, chunk: Chunk): Promise<string>;
  load(): Promise<QueueLoad>;
  readClock: QueueBackend['readClock'];
  /** The names of the queues that no worker process takes jobs from at present. */
  findIdle(): Promise<string[]>;
  check: QueueBackend['check'];
  /** How far the clock of the store is ahead of this process's, in ms. */
  clockSkew(): Promise<number>;
  close(): Promise<void>;
};

/**
 * Waits for the store to answer once; from then on it recovers by itself.
 * @throws the reason of the signal's abort, or ShardsError
 */
export async function createEntryQueue({ signal, onError, ...config }: EntryQueueOptions): Promise<EntryQueue> {
  const backend = await connectQueueBackend(config, 'producer', { signal, onError });
  const shardCheck = await agreeOnShards(backend, config.shards, onError);
  const queues = await Promise.all(toAddresses(config.shards).map((address) => backend.openQueue(address)));
  const { admission, buckets, idempotency } = backend;
  /** Entries per shard. One whose master is away keeps its last count, so that the others' limit stays in force. */
  const backlogs = queues.map(() => 0);

  async function enqueue(shard: number, chunk: Chunk, priority = 0): Promise<string> {
    const options = { ...JOB_OPTIONS, jobId: toJobId(chunk), priority };
    const job = await queueOf(queues, shard).add('chunk', toChunkData(chunk), options).catch(throwUnavailable);
    return job.id ?? '';
  }

  /** With another number of shards than the queue's, an entry would get into a shard that is not its customer's. */
  async function assertShards(): Promise<void> {
    if (shardCheck.differs()) await shardCheck.check();
  }

  return {
    async admit(...call) {
      await assertShards().catch(throwUnavailable);
      return admission.admit(...call).catch(throwUnavailable);
    },
    release: (...call) => admission.release(...call).catch(throwUnavailable),
    readClaims: (...call) => admission.readClaims(...call).catch(throwUnavailable),
    idempotency: {
      begin: (...call) => idempotency.begin(...call).catch(throwUnavailable),
      end: (...call) => idempotency.end(...call).catch(throwUnavailable),
    },
    lease: (...call) => buckets.lease(...call).catch(throwUnavailable),
    enqueue,
    async requeue(shard, chunk) {
      await assertShards().catch(throwUnavailable);
      const backlogs = await admission.readmit(shard, chunk.entries).catch(throwUnavailable);
      try {
        return await enqueue(shard, chunk, toPriority(Math.max(0, ...backlogs.values())));
      } catch (error) {
        await admission.withdraw(shard, chunk.entries).catch(() => {}); // a scheduled job mends what this cannot
        throw error;
      }
    },
    async load() {
      const counting = backlogs.map(async (_, shard) => {
        backlogs[shard] = await admission.countBacklog(shard);
      });
      const checking = shardCheck.check().catch(() => {}); // what it finds is told to those who admit
      const asked = Promise.all([backend.memoryUse(), Promise.allSettled(counting), checking]);
      const [memory] = await asked.catch(throwUnavailable);
      return { entries: backlogs.reduce((sum, entries) => sum + entries, 0), memory };
    },
    async findIdle() {
      const counts = await Promise.all(queues.map((queue) => queue.getWorkersCount())).catch(throwUnavailable);
      return queues.filter((_, shard) => counts[shard] === 0).map(({ name }) => name);
    },
    readClock: () => backend.readClock().catch(throwUnavailable),
    check: () => checkWithShards(backend, shardCheck),
    clockSkew: async () => toWorst(await backend.readClockSkews()),
    close: () => backend.close(),
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
