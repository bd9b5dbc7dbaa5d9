export type { Admission, Admittance, Admitted, Persisted } from './admission.js';
export type { Backlog } from './backlog.js';
export { type Chunk, MAX_CHUNK_ENTRIES, parseChunk } from './chunk.js';
export { type DashboardQueues, openDashboardQueues } from './dashboard-queues.js';
export { createEntryQueue, type EntryQueue, type EntryQueueOptions, type QueueLoad } from './entry-queue.js';
export {
  createEntryWorker,
  type EntryWorker,
  type EntryWorkerOptions,
  type JobContext,
  Postponed,
} from './entry-worker.js';
export { startMaintenance } from './maintenance.js';
export { migrateQueue } from './postgres/migrate-queue.js';
export { type QueueConfig, toQueueConfig } from './queue-backend.js';
export { retryDelayMs } from './retry-policy.js';
export { shardOf } from './shards.js';
