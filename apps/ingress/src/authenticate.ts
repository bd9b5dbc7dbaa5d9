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
  /** Another one since a key was ended or a limit changed. */
  readRevision: () => Promise<string>;
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

/** Each takes a few hundred bytes. */
const MAX_KNOWN_KEYS = 50_000;
const MAX_UNKNOWN_KEYS = 10_000;
/** A revoked key ends everywhere within this time, and a limit changes: no answer of PostgreSQL is trusted for longer. */
const TRUST_MS = 1_000;
const POLL_INTERVAL_MS = 400;
/** In case somebody has turned the triggers off that change the revision; half of it at least, so that not all keys age at once. */
const MAX_AGE_MS = 10 * 60 * 1_000;
const UNKNOWN_TTL_MS = 10_000;
const MAX_LOOKED_UP = 1_000;

type KnownKey = KeyOwner & { revision: string; agesAt: number; endsAt: number };

/**
 * Knows keys by their SHA-256. PostgreSQL keeps a revision, which changes when a key ends or a limit changes. It is read every
 * 400 ms, in the background, and as long as it is the same, so are all keys: however many partners there are, no request
 * waits for PostgreSQL. If it changes, the known keys are looked up again, also in the background. While PostgreSQL is away,
 * all known keys stay good: acknowledging does not depend on it.
 *
 * A key counts as a guess of its address until it is known. Those of an address that has guessed too often wait in a queue of
 * their own (`suspects.ts`), for a good one may be among them: of somebody behind the same proxy.
 */
export function createAuthenticator(deps: AuthenticatorDeps): Authenticator {
  const { findOwners, readRevision, pause, unknownKeys } = deps;
  const known = new LRUCache<string, KnownKey>({ max: MAX_KNOWN_KEYS });
  const unknown = new LRUCache<string, true>({ max: MAX_UNKNOWN_KEYS, ttl: UNKNOWN_TTL_MS });

  /** The last two revisions, and until when keys that were looked up at that revision are trusted. */
  let current = { revision: '', trustedUntil: 0 };
  let previous = current;

  async function findAll(hashes: string[]): Promise<(KeyOwner | undefined)[]> {
    if (pause.isActive) throw new Fault('KEYS_UNAVAILABLE');
    const asked = { revision: current.revision, askedAt: performance.now() };
    const found = await pause.run(() => findOwners(hashes));
    return hashes.map((hash) => note(hash, found.get(hash), asked));
  }
  /** New keys do not wait behind all that are known. */
  const lookUps = new GroupCommit<'new' | 'known', string, KeyOwner | undefined>({
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

  function note(
    hash: string,
    owner: KeyOwner | undefined,
    { revision, askedAt }: { revision: string; askedAt: number },
  ): KeyOwner | undefined {
    if (owner === undefined) {
      known.delete(hash);
      unknown.set(hash, true);
    } else {
      unknown.delete(hash);
      const agesAt = askedAt + MAX_AGE_MS * (0.5 + Math.random() / 2);
      known.set(hash, { ...owner, revision, agesAt, endsAt: askedAt + (owner.endsInMs ?? Number.POSITIVE_INFINITY) });
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

  async function renew(hash: string, stale: KnownKey): Promise<KeyOwner> {
    const owner = await lookUps.run('new', hash).catch((cause) => {
      if (!pause.isActive || performance.now() >= stale.endsAt) throw new Fault('KEYS_UNAVAILABLE', { cause });
      return stale;
    });
    if (!owner) throw new Fault('KEY_UNKNOWN');
    return owner;
  }

  async function tryKey(hash: string, takeBack: () => void): Promise<KeyOwner> {
    const owner = await lookUps.run('new', hash).catch((cause) => {
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

  function isTrusted({ revision, agesAt, endsAt }: KnownKey): boolean {
    const now = performance.now();
    if (now >= endsAt) return false;
    if (pause.isActive) return true;
    return now < trustedUntil(revision) && now < agesAt;
  }

  function trustedUntil(revision: string): number {
    if (revision === current.revision) return current.trustedUntil;
    return revision === previous.revision ? previous.trustedUntil : 0;
  }

  /** The known keys were looked up at this revision, or are about to be. */
  let renewed = '';

  async function poll(): Promise<void> {
    if (pause.isActive) return;
    const trustedUntil = performance.now() + TRUST_MS;
    const revision = await pause.run(readRevision);
    if (revision !== current.revision) previous = current;
    current = { revision, trustedUntil };
    if (revision === renewed) return;
    renewed = revision;
    const outdated = [...known].filter(([, key]) => key.revision !== revision);
    await Promise.all(outdated.map(([hash]) => lookUps.run('known', hash))).catch((error) => {
      renewed = '';
      throw error;
    });
  }
  const pollInBackground = () => void poll().catch(() => {}); // the pause has heard of it
  pollInBackground();
  const timer = setInterval(pollInBackground, POLL_INTERVAL_MS);

  return {
    authenticate(apiKey, from) {
      const hash = hashOf(apiKey, from);
      const key = known.get(hash);
      if (key && isTrusted(key)) return key;
      if (!isApiKey(apiKey) || unknown.has(hash)) throw new Fault('KEY_UNKNOWN');
      if (pause.isActive) throw new Fault('KEYS_UNAVAILABLE');
      return lookUp(hash, from);
    },
    close: () => clearInterval(timer),
  };
}
