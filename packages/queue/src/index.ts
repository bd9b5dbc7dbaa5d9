export type { Admission, Admittance, Admitted, Asking, Claim, Persisted, Waiting } from './admission.js';
export { ShardsError } from './agree-on-shards.js';
export type { Backlog } from './backlog.js';
export { type Chunk, type ChunkEntry, MAX_CHUNK_ENTRIES, parseChunk, toChunkData } from './chunk.js';
export { type DashboardQueues, openDashboardQueues } from './dashboard-queues.js';
export { createEntryQueue, type EntryQueue, type EntryQueueOptions, type QueueLoad } from './entry-queue.js';
export {
  createEntryWorker,
  type EntryWorker,
  type EntryWorkerOptions,
  type JobContext,
  Postponed,
} from './entry-worker.js';
export type { Ended, Idempotency, KeptAnswer, KeyedRequest, Known } from './idempotency.js';
export { startMaintenance } from './maintenance.js';
export { isPooled } from './postgres/is-pooled.js';
export { migrateQueue } from './postgres/migrate-queue.js';
export { toPriority } from './priority.js';
export { type QueueConfig, toQueueConfig } from './queue-backend.js';
export { toHashTag } from './redis/hash-tag.js';
export { retryDelayMs } from './retry-policy.js';
export { shardOf } from './shards.js';
export type { LeaseCall, Leased, TokenBuckets } from './token-buckets.js';
