import { ipKeyGenerator, MemoryStore, type Options } from 'express-rate-limit';
import type { UnknownKeys } from './authenticate.js';

const MAX_UNKNOWN_KEYS = 20;
const WINDOW_MS = 10_000;

/** Whoever tries keys gets to try 20 in 10 s; after that, only keys that are cached are let in from that address. */
export function createUnknownKeys(): UnknownKeys & { close(): void } {
  const counts = new MemoryStore();
  counts.init({ windowMs: WINDOW_MS } as Options);
  return {
    async isLimited(address) {
      const window = await counts.get(ipKeyGenerator(address));
      return window !== undefined && window.totalHits >= MAX_UNKNOWN_KEYS && (window.resetTime ?? 0) > new Date();
    },
    count(address) {
      void counts.increment(ipKeyGenerator(address));
    },
    close: () => counts.shutdown(),
  };
}
