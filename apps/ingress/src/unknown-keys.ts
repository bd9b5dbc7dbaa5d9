import { ipKeyGenerator } from 'express-rate-limit';
import { LRUCache } from 'lru-cache';
import type { Tries } from './authenticate.js';

const MAX_TRIES = 20;
const WINDOW_MS = 10_000;
const MAX_NETWORKS = 10_000;
/** What a provider gives to one subscriber at least. */
const IPV6_PREFIX = 64;

type Window = { tries: number; endsAt: number };

/** Whoever tries keys gets to try 20 in 10 s, per IPv4 address or /64 of IPv6. */
export function createUnknownKeys(): Tries {
  const windows = new LRUCache<string, Window>({ max: MAX_NETWORKS });
  const toNetwork = (address: string) => ipKeyGenerator(address, IPV6_PREFIX);

  function windowOf(network: string): Window {
    const last = windows.get(network);
    if (last && last.endsAt > performance.now()) return last;
    const window = { tries: 0, endsAt: performance.now() + WINDOW_MS };
    windows.set(network, window);
    return window;
  }

  return {
    take(address) {
      const window = windowOf(toNetwork(address));
      if (window.tries >= MAX_TRIES) return undefined;
      window.tries++;
      return () => {
        window.tries--;
      };
    },
    secondsLeft(address) {
      const { endsAt = 0 } = windows.get(toNetwork(address)) ?? {};
      return Math.max(1, Math.ceil((endsAt - performance.now()) / 1_000));
    },
  };
}
