import type { EntryWorkerOptions } from '../src/index.js';

/** Options of a worker that completes every chunk at once. */
export const IDLE_WORKER = {
  concurrency: 1,
  lockMs: 20_000,
  process: async () => {},
  deadLetterInvalid: async () => {},
  onPostponed: () => {},
  onRetry: () => {},
} satisfies Partial<EntryWorkerOptions>;
