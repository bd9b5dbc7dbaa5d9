import { setTimeout as delay } from 'node:timers/promises';
import { ipKeyGenerator } from 'express-rate-limit';
import { LRUCache } from 'lru-cache';

const MAX_TRIES = 20;
const WINDOW_MS = 10_000;
const MAX_NETWORKS = 10_000;
/** Internet providers give each subscriber at least a /64. */
const IPV6_PREFIX = 64;

/** Limits unknown keys to 20 in 10 s per IPv4 address or IPv6 /64. */
export function createUnknownKeys(): UnknownKeyCounter {
  // `tries` is changed in place, because setting a window again would extend it.
  const windows = new LRUCache<string, { tries: number }>({
    max: MAX_NETWORKS,
    ttl: WINDOW_MS,
    memoMethod: () => ({ tries: 0 }),
  });
  const toNetwork = (address: string) => ipKeyGenerator(address, IPV6_PREFIX);

  return {
    take(address) {
      const window = windows.memo(toNetwork(address));
      if (window.tries >= MAX_TRIES) return undefined;
      window.tries++;
      return () => {
        window.tries--;
      };
    },
    secondsLeft(address) {
      return Math.max(1, Math.ceil(windows.getRemainingTTL(toNetwork(address)) / 1_000));
    },
  };
}

const INTERVAL_MS = 100;
const MAX_LOOKED_UP = 1_000;

type Connection = { readonly destroyed: boolean };

type Waiting<Owner> = {
  hash: string;
  found: Promise<Owner | undefined>;
  resolve: (owner: Owner | undefined) => void;
  reject: (error: unknown) => void;
};

/**
 * Looks up the keys of addresses that have sent too many unknown keys: one query at a time and ten a second, so that
 * guesses cost PostgreSQL almost nothing. Each connection has at most one key in the queue, so the queue is never
 * longer than the number of connections, and no client is refused because of another one. 10,000 connections wait for
 * one second.
 */
export function createThrottledLookUp<Owner>(findAll: (hashes: string[]) => Promise<(Owner | undefined)[]>) {
  const waiting = new Map<Connection, Waiting<Owner>>();
  let isRunning = false;

  async function takeTurns(): Promise<void> {
    isRunning = true;
    while (waiting.size > 0) {
      const interval = delay(INTERVAL_MS);
      dropClosed();
      const turn = [...waiting].slice(0, MAX_LOOKED_UP);
      await lookUpAll(turn.map(([, key]) => key));
      for (const [connection] of turn) waiting.delete(connection);
      await interval;
    }
    isRunning = false;
  }

  function dropClosed(): void {
    for (const [connection, { resolve }] of waiting) {
      if (!connection.destroyed) continue;
      waiting.delete(connection);
      resolve(undefined);
    }
  }

  async function lookUpAll(keys: Waiting<Owner>[]): Promise<void> {
    if (keys.length === 0) return;
    try {
      const owners = await findAll(keys.map(({ hash }) => hash));
      for (const [i, { resolve }] of keys.entries()) resolve(owners[i]);
    } catch (error) {
      for (const { reject } of keys) reject(error);
    }
  }

  /**
   * @returns undefined if the key is unknown, the connection already waits with another key, or it closes before its
   * turn
   */
  return async (hash: string, connection: Connection): Promise<Owner | undefined> => {
    const last = waiting.get(connection);
    if (last) return last.hash === hash ? last.found : undefined;
    const settle = {} as Pick<Waiting<Owner>, 'resolve' | 'reject'>;
    const found = new Promise<Owner | undefined>((resolve, reject) => Object.assign(settle, { resolve, reject }));
    waiting.set(connection, { hash, found, ...settle });
    if (!isRunning) void takeTurns();
    return found;
  };
}

/** Counts the unknown keys of each address. */
export type UnknownKeyCounter = {
  /**
   * Counts a key.
   * @returns a function that uncounts it if the key turns out to be known; undefined if the limit is reached
   */
  take(address: string): (() => void) | undefined;
  /** Whole seconds, at least 1, until the address may try unknown keys again. */
  secondsLeft(address: string): number;
};
