import { Fault } from '@opm/contract';
import type { Queue } from 'bullmq';
import type { Admission } from './admission.js';
import {
  type Backlog,
  listJobs,
  type ProjectBacklog,
  readBacklog,
  readProjectBacklogs,
  toPriority,
} from './backlog.js';
import { type Chunk, type JobSummary, toChunkData, toJobId } from './chunk.js';
import { toLargestSkew } from './clock.js';
import type { Idempotency } from './idempotency.js';
import { MAINTENANCE } from './maintenance.js';
import { connectQueueBackend, type QueueConfig } from './queue-backend.js';
import { type QueueBackend, toAddresses } from './queue-store.js';
import { JOB_OPTIONS } from './retry-policy.js';
import { checkShards, checkStoreAndShards, createShardCheck } from './shard-check.js';
import type { TokenBuckets } from './token-buckets.js';

export type EntryQueueOptions = QueueConfig & {
  signal: AbortSignal;
  onError: (error: Error) => void;
  /** Starts even if the number of shards is wrong, and then refuses entries. */
  onlyReadsShards?: boolean;
};

/**
 * Load of the queue: waiting entries of all projects and shards, and the used fraction of the store's memory, 0 to 1.
 */
export type QueueLoad = { entries: number; memory: number };

/** The producer's side. If the store is down, each call fails within about a second with Fault QUEUE_UNAVAILABLE. */
export type EntryQueue = Pick<Admission, 'admit' | 'admitAgain' | 'release' | 'readClaims' | 'readVersion'> & {
  idempotency: Omit<Idempotency, 'sweep'>;
  reserve: TokenBuckets['reserve'];
  /**
   * Stores a chunk as one job. Answer its partners only after it resolves. Returns the job's id.
   * @param priority see `toPriority`; BullMQ takes lower numbers first
   */
  enqueue(shard: number, chunk: Chunk, priority?: number): Promise<string>;
  /** Adds entries that keep their versions to the backlog and stores them as one job. Returns the job's id. */
  requeue(shard: number, chunk: Chunk): Promise<string>;
  load(): Promise<QueueLoad>;
  readBacklog(): Promise<Backlog>;
  readProjectBacklogs(): Promise<Map<number, ProjectBacklog>>;
  /** What the ids of the shard's unfinished jobs say. */
  listJobs(shard: number): Promise<JobSummary[]>;
  readClock: QueueBackend['readClock'];
  /** The names of the queues that have no worker at present. */
  findIdle(): Promise<string[]>;
  /** The names of the queues that are paused: workers take no jobs from them. */
  findPaused(): Promise<string[]>;
  check: QueueBackend['check'];
  /** How far the store's clock is ahead of this process's, in ms. */
  clockSkew(): Promise<number>;
  close(): Promise<void>;
};

/**
 * Resolves after the store has answered once. Later outages of the store need no action.
 * @throws the reason of the signal's abort, or ShardsError
 */
export async function createEntryQueue(options: EntryQueueOptions): Promise<EntryQueue> {
  const { signal, onError, onlyReadsShards: onlyReads, ...config } = options;
  const backend = await connectQueueBackend(config, 'producer', { signal, onError });
  const shardCheck = await createShardCheck(backend, config.shards, { onlyReads, onError });
  const queues = await Promise.all(toAddresses(config.shards).map((address) => backend.openQueue(address)));
  const { admission, buckets, idempotency } = backend;
  /**
   * Entries per shard. A shard whose Redis master is down keeps its last count, so the backlog limit stays in force.
   */
  const backlogs = queues.map(() => 0);

  async function enqueue(shard: number, chunk: Chunk, priority = 0): Promise<string> {
    const options = { ...JOB_OPTIONS, jobId: toJobId(chunk), priority };
    const job = await guard(queueOf(queues, shard).add('chunk', toChunkData(chunk), options));
    return job.id ?? '';
  }

  /** With a wrong number of shards, an entry would go to a shard that is not its customer's. */
  async function assertShards(): Promise<void> {
    if (shardCheck.differs()) await shardCheck.check();
  }

  return {
    async admit(...call) {
      await guard(assertShards());
      return guard(admission.admit(...call));
    },
    admitAgain: (...call) => guard(admission.admitAgain(...call)),
    release: (...call) => guard(admission.release(...call)),
    readClaims: (...call) => guard(admission.readClaims(...call)),
    readVersion: (shard) => guard(admission.readVersion(shard)),
    idempotency: {
      remember: (...call) => guard(idempotency.remember(...call)),
      read: (...call) => guard(idempotency.read(...call)),
      close: (...call) => guard(idempotency.close(...call)),
      readBytes: (...call) => guard(idempotency.readBytes(...call)),
      forget: (...call) => guard(idempotency.forget(...call)),
      maxBytes: idempotency.maxBytes,
    },
    reserve: (...call) => guard(buckets.reserve(...call)),
    enqueue,
    async requeue(shard, chunk) {
      await guard(assertShards());
      const backlogs = await guard(admission.readmit(shard, chunk.entries));
      try {
        return await enqueue(shard, chunk, toPriority(Math.max(0, ...backlogs.values())));
      } catch (error) {
        // If this fails too, maintenance corrects the backlog.
        await admission.withdraw(shard, chunk.entries).catch(() => {});
        throw error;
      }
    },
    async load() {
      const counting = backlogs.map(async (_, shard) => {
        backlogs[shard] = await admission.countBacklog(shard);
      });
      const checking = shardCheck.check().catch(() => {}); // `admit` reports a difference
      const reads = Promise.all([backend.memoryUse(), Promise.allSettled(counting), checking]);
      const [memory] = await guard(reads);
      return { entries: backlogs.reduce((sum, entries) => sum + entries, 0), memory };
    },
    readBacklog: () => guard(backend.readClock().then((now) => readBacklog(queues, backend.findOldest, now.getTime()))),
    readProjectBacklogs: () => guard(backend.readClock().then((now) => readProjectBacklogs(queues, now))),
    listJobs: (shard) => guard(listJobs(queueOf(queues, shard))),
    async findIdle() {
      const counts = await guard(Promise.all(queues.map((queue) => queue.getWorkersCount())));
      return queues.filter((_, shard) => counts[shard] === 0).map(({ name }) => name);
    },
    async findPaused() {
      const states = await guard(Promise.all(queues.map((queue) => queue.isPaused())));
      return queues.filter((_, shard) => states[shard]).map(({ name }) => name);
    },
    readClock: () => guard(backend.readClock()),
    check: () => checkStoreAndShards(backend, shardCheck),
    clockSkew: async () => toLargestSkew(await backend.readClockSkews()),
    close: () => backend.close(),
  };
}

function queueOf<Q>(queues: Q[], shard: number): Q {
  const queue = queues[shard];
  if (!queue) throw new RangeError(`there is no shard ${shard}`);
  return queue;
}

/** @throws Fault QUEUE_UNAVAILABLE if the call fails */
function guard<T>(call: Promise<T>): Promise<T> {
  return call.catch((cause) => {
    throw new Fault('QUEUE_UNAVAILABLE', { cause });
  });
}

export type DashboardQueues = Pick<QueueBackend, 'check' | 'close'> & { queues: Queue[] };

/**
 * Opens the entry queues, by shard, followed by the maintenance queue, for the Bull dashboard. Do not add jobs to them.
 * @throws the reason of the signal's abort
 */
export async function openDashboardQueues(
  options: QueueConfig & { signal: AbortSignal; onError: (error: Error) => void },
): Promise<DashboardQueues> {
  const { signal, onError, ...config } = options;
  const backend = await connectQueueBackend(config, 'dashboard', { signal, onError });
  const addresses = [...toAddresses(config.shards), MAINTENANCE];
  const queues = await Promise.all(addresses.map((address) => backend.openQueue(address, { skipMetasUpdate: true })));
  return {
    queues,
    async check() {
      const [warning] = await Promise.all([backend.check(), checkShards(backend, config.shards)]);
      return warning;
    },
    close: () => backend.close(),
  };
}
