import type { EntryWorkerOptions } from '../src/index.js';

/** What a worker needs whose chunks are done at once, and who is asked nothing about them. */
export const IDLE_WORKER = {
  concurrency: 1,
  lockMs: 20_000,
  process: async () => {},
  bury: async () => {},
  onPostponed: () => {},
  onRetry: () => {},
} satisfies Partial<EntryWorkerOptions>;
