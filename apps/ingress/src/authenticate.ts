import { Fault } from '@opm/contract';
import { hashApiKey, isApiKey } from '@opm/core';
import { LRUCache } from 'lru-cache';
import type { OutagePause } from './outage-pause.js';

/** The project of a key. @throws Fault KEY_UNKNOWN, or KEYS_UNAVAILABLE while PostgreSQL is away and the key is not cached */
export type Authenticate = (apiKey: string) => Promise<number>;

const MAX_CACHED_KEYS = 10_000;
/** A revoked key ends everywhere within this time. */
const KEY_TTL_MS = 1_000;
const UNKNOWN = 0; // project ids start at 1

/**
 * Looks keys up by their SHA-256 through a small cache, so a busy key costs PostgreSQL one look-up a second. While
 * PostgreSQL is away, keys that are cached stay good: acknowledging does not depend on it.
 */
export function createAuthenticate(deps: {
  findProjectId: (keyHash: Uint8Array<ArrayBuffer>) => Promise<number | undefined>;
  pause: OutagePause;
}): Authenticate {
  const { findProjectId, pause } = deps;
  const projects = new LRUCache<string, number>({
    max: MAX_CACHED_KEYS,
    ttl: KEY_TTL_MS,
    // A key that has expired here stays until PostgreSQL has been asked again, and stays good where it cannot be.
    noDeleteOnStaleGet: true,
    noDeleteOnFetchRejection: true,
    allowStaleOnFetchRejection: true,
    fetchMethod: async (hash) =>
      (await pause.run(() => findProjectId(new Uint8Array(Buffer.from(hash, 'base64'))))) ?? UNKNOWN,
  });

  /** Undefined where only PostgreSQL could say. */
  async function findProject(hash: string): Promise<number | undefined> {
    const cached = projects.get(hash, { allowStale: pause.isActive });
    if (cached !== undefined || pause.isActive) return cached;
    return projects.fetch(hash).catch(() => undefined);
  }

  return async (apiKey) => {
    if (!isApiKey(apiKey)) throw new Fault('KEY_UNKNOWN');
    const projectId = await findProject(hashApiKey(apiKey).toString('base64'));
    if (projectId === undefined) throw new Fault('KEYS_UNAVAILABLE');
    if (projectId === UNKNOWN) throw new Fault('KEY_UNKNOWN');
    return projectId;
  };
}
