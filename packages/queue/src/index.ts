export {
  type Admission,
  type AdmitRequest,
  type AdmitResult,
  type Admitted,
  type AdmittedAgain,
  type Claim,
  type Persisted,
  shardOf,
} from './admission.js';
export {
  type Backlog,
  countWaiting,
  MIN_SHORT_BACKLOG,
  type ProjectBacklog,
  ShortBacklog,
  toPriority,
} from './backlog.js';
export { type Chunk, type ChunkEntry, MAX_CHUNK_ENTRIES, parseChunk, toChunkData, type VersionRange } from './chunk.js';
export {
  createEntryQueue,
  type DashboardQueues,
  type EntryQueue,
  type EntryQueueOptions,
  openDashboardQueues,
  type QueueLoad,
} from './entry-queue.js';
export {
  createEntryWorker,
  type EntryWorker,
  type EntryWorkerOptions,
  type JobContext,
  Postponed,
} from './entry-worker.js';
export {
  findNew,
  type Idempotency,
  type KeyedPart,
  type KeyedRequest,
  type OpenPart,
  type PartRecord,
  type PartState,
  parseClosedState,
  parseOpen,
  parsePart,
  toClosedState,
} from './idempotency.js';
export { MAINTENANCE_TASKS, startMaintenance } from './maintenance.js';
export { isPooled, migrateQueue } from './postgres/postgres-store.js';
export { type QueueConfig, toQueueConfig } from './queue-backend.js';
export { toHashTag } from './redis/redis-store.js';
export { JOB_OPTIONS, retryDelayMs } from './retry-policy.js';
export { ShardsError } from './shard-check.js';
export type { ReserveCall, Reserved, TokenBuckets } from './token-buckets.js';
