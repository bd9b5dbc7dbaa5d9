export type { Admission, Admitted, Persisted } from './admission.js';
export type { Chunk } from './chunk.js';
export { type DashboardQueues, openDashboardQueues } from './dashboard-queues.js';
export { createEntryQueue, type EntryQueue, type EntryQueueOptions } from './entry-queue.js';
export { createEntryWorker, type EntryWorker, type EntryWorkerOptions } from './entry-worker.js';
export { migrateQueue } from './postgres/migrate-queue.js';
export { type QueueConfig, toQueueConfig } from './queue-backend.js';
export { shardOf } from './shards.js';
