import { ipKeyGenerator, MemoryStore, type Options } from 'express-rate-limit';
import type { UnknownKeys } from './authenticate.js';

const MAX_UNKNOWN_KEYS = 20;
const WINDOW_MS = 10_000;

/** Whoever tries keys gets to try 20 in 10 s; after that, only keys that are cached are let in from that address. */
export function createUnknownKeys(): UnknownKeys & { close(): void } {
  const counts = new MemoryStore();
  counts.init({ windowMs: WINDOW_MS } as Options);
  return {
    async secondsLeft(address) {
      const { totalHits = 0, resetTime } = (await counts.get(ipKeyGenerator(address))) ?? {};
      if (totalHits < MAX_UNKNOWN_KEYS || !resetTime) return 0;
      return Math.max(0, Math.ceil((resetTime.getTime() - Date.now()) / 1_000));
    },
    count(address) {
      void counts.increment(ipKeyGenerator(address));
    },
    close: () => counts.shutdown(),
  };
}
