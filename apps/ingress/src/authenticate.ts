import { Fault } from '@opm/contract';
import { GroupCommit, hashApiKey, isApiKey } from '@opm/core';
import type { KeyOwner } from '@opm/store';
import type { Request } from 'express';
import { LRUCache } from 'lru-cache';
import type { OutagePause } from './outage-pause.js';
import { createSuspects } from './suspects.js';

export type Authenticator = {
  /**
   * Whose the key is that a request gives, at once where the key is cached.
   * @throws Fault KEY_UNKNOWN, TOO_MANY_UNKNOWN_KEYS, or KEYS_UNAVAILABLE while PostgreSQL is away and the key is not cached
   */
  authenticate(apiKey: string, from: Asker): KeyOwner | Promise<KeyOwner>;
  close(): void;
};

/** A request: its connection, and the address that unknown keys are counted for. */
export type Asker = Pick<Request, 'socket' | 'ip'>;

export type AuthenticatorDeps = {
  /** By the keys' SHA-256 in hex. */
  findOwners: (keyHashes: string[]) => Promise<Map<string, KeyOwner>>;
  pause: OutagePause;
  unknownKeys: Tries;
};

/** Counts, per address, the keys that are looked up or were unknown. */
export type Tries = {
  /** Counts one more; undefined if the address may try no more of them. @returns takes it back, if the key is known */
  take(address: string): (() => void) | undefined;
  /** Until the address may try some again, at least 1. */
  secondsLeft(address: string): number;
};

const MAX_CACHED_KEYS = 10_000;
/** A revoked key ends everywhere within this time, and a limit changes: no answer of PostgreSQL is trusted for longer. */
const KEY_TTL_MS = 1_000;
const REFRESH_INTERVAL_MS = 400;
/** Keys that nobody uses at the moment are looked up again, too: they would be good while PostgreSQL is away. */
const REFRESH_ALL_EVERY = 25;
const FORGET_AFTER_MS = 10 * 60 * 1_000;
const UNKNOWN_TTL_MS = 10_000;
const MAX_LOOKED_UP = 1_000;

type KnownKey = KeyOwner & { checkedAt: number; isBusy: boolean };

/**
 * Knows keys by their SHA-256. All keys in use are looked up again together, every 400 ms and in the background, so
 * no partner waits for that; a key that is new here, or was not used for a while, is looked up when it comes. While
 * PostgreSQL is away, keys that were good within the ten seconds before stay good: acknowledging does not depend on it.
 *
 * A key counts as a guess of its address until it is known. Those of an address that has guessed too often wait in a queue of
 * their own (`suspects.ts`), for a good one may be among them: of somebody behind the same proxy.
 */
export function createAuthenticator({ findOwners, pause, unknownKeys }: AuthenticatorDeps): Authenticator {
  const known = new LRUCache<string, KnownKey>({
    max: MAX_CACHED_KEYS,
    ttl: FORGET_AFTER_MS,
    updateAgeOnGet: true,
    noUpdateTTL: true, // looking a key up again is not using it
    ttlResolution: 1_000, // by default it sets a timer for each millisecond in which it is asked
  });
  const unknown = new LRUCache<string, true>({ max: MAX_CACHED_KEYS, ttl: UNKNOWN_TTL_MS });

  async function findAll(hashes: string[]): Promise<(KeyOwner | undefined)[]> {
    if (pause.isActive) throw new Fault('KEYS_UNAVAILABLE');
    const checkedAt = performance.now();
    const found = await pause.run(() => findOwners(hashes));
    return hashes.map((hash) => note(hash, found.get(hash), checkedAt));
  }
  const lookUps = new GroupCommit<'all', string, KeyOwner | undefined>({
    commit: (_, hashes) => findAll(hashes),
    maxBatch: MAX_LOOKED_UP,
    maxInFlight: 2,
  });
  const lookUpSuspect = createSuspects(findAll);

  /** A connection gives the same key with each request: its hash is worked out once, and goes with the connection. */
  const lastOf = new WeakMap<Asker['socket'], { apiKey: string; hash: string }>();
  function hashOf(apiKey: string, { socket }: Asker): string {
    const last = lastOf.get(socket);
    if (last?.apiKey === apiKey) return last.hash;
    const hash = hashApiKey(apiKey);
    lastOf.set(socket, { apiKey, hash });
    return hash;
  }

  function note(hash: string, owner: KeyOwner | undefined, checkedAt: number): KeyOwner | undefined {
    if (owner === undefined) {
      known.delete(hash);
      unknown.set(hash, true);
    } else {
      unknown.delete(hash);
      known.set(hash, { ...owner, checkedAt, isBusy: false });
    }
    return owner;
  }

  /** By hash: a key that comes many times at once is one try. Suspects' are not among them. */
  const underWay = new Map<string, Promise<KeyOwner>>();
  function lookUp(hash: string, from: Asker): Promise<KeyOwner> {
    const found = underWay.get(hash);
    if (found) return found;
    const stale = known.get(hash);
    if (stale) return share(hash, renew(hash, stale));
    const takeBack = unknownKeys.take(from.ip ?? '');
    return takeBack ? share(hash, tryKey(hash, takeBack)) : tryAsSuspect(hash, from);
  }

  function share(hash: string, lookingUp: Promise<KeyOwner>): Promise<KeyOwner> {
    const found = lookingUp.finally(() => underWay.delete(hash));
    underWay.set(hash, found);
    return found;
  }

  async function renew(hash: string, stale: KeyOwner): Promise<KeyOwner> {
    const owner = await lookUps.run('all', hash).catch((cause) => {
      if (!pause.isActive) throw new Fault('KEYS_UNAVAILABLE', { cause });
      return stale;
    });
    if (!owner) throw new Fault('KEY_UNKNOWN');
    return owner;
  }

  async function tryKey(hash: string, takeBack: () => void): Promise<KeyOwner> {
    const owner = await lookUps.run('all', hash).catch((cause) => {
      takeBack();
      throw new Fault('KEYS_UNAVAILABLE', { cause });
    });
    if (!owner) throw new Fault('KEY_UNKNOWN');
    takeBack();
    return owner;
  }

  async function tryAsSuspect(hash: string, { socket, ip = '' }: Asker): Promise<KeyOwner> {
    const owner = await lookUpSuspect(hash, socket).catch((cause) => {
      throw new Fault('KEYS_UNAVAILABLE', { cause });
    });
    if (!owner) throw new Fault('TOO_MANY_UNKNOWN_KEYS', { retryAfterSeconds: unknownKeys.secondsLeft(ip) });
    return owner;
  }

  async function refresh(isDue: (key: KnownKey) => boolean): Promise<void> {
    const due = [...known].filter(([, key]) => isDue(key));
    await Promise.all(due.map(([hash]) => lookUps.run('all', hash)));
  }
  let round = 0;
  const timer = setInterval(() => {
    round++;
    if (pause.isActive) return;
    const isDue = round % REFRESH_ALL_EVERY === 0 ? () => true : ({ isBusy }: KnownKey) => isBusy;
    refresh(isDue).catch(() => {}); // the pause has heard of it
  }, REFRESH_INTERVAL_MS);

  return {
    authenticate(apiKey, from) {
      const hash = hashOf(apiKey, from);
      const key = known.get(hash);
      if (key && (performance.now() - key.checkedAt < KEY_TTL_MS || pause.isActive)) {
        key.isBusy = true;
        return key;
      }
      if (!isApiKey(apiKey) || unknown.has(hash)) throw new Fault('KEY_UNKNOWN');
      if (pause.isActive) throw new Fault('KEYS_UNAVAILABLE');
      return lookUp(hash, from);
    },
    close: () => clearInterval(timer),
  };
}
