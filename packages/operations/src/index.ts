export {
  type Problem,
  type QueueStatus,
  SILENT_SECONDS,
  type StoreStatus,
  toCount,
  toDuration,
  toNumber,
} from './find-problems.js';
export { type ProjectStats, readProjectStats } from './project-stats.js';
export { readQueueStatus, readStoreStatus, type Status, toP99Ms, toStatus } from './status.js';
