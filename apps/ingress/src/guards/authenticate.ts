import { Fault } from '@opm/contract';
import { createAddressCheck, GroupCommit, hashApiKey, isApiKey, type Scope } from '@opm/core';
import type { KeyOwner } from '@opm/store';
import type { ErrorRequestHandler, Request, RequestHandler } from 'express';
import { LRUCache } from 'lru-cache';
import { contextOf } from '../http/request-context.js';
import type { CircuitBreaker } from '../ingest/circuit-breaker.js';
import { createThrottledLookUp, type UnknownKeyCounter } from './unknown-keys.js';

export type Authenticator = {
  /**
   * Returns the owner of an API key: directly if the key is cached, else as a promise.
   * @throws Fault KEY_UNKNOWN, TOO_MANY_UNKNOWN_KEYS, or KEYS_UNAVAILABLE if PostgreSQL is down and the key is not
   * cached
   */
  authenticate(apiKey: string, from: KeySender): CheckedKey | Promise<CheckedKey>;
  close(): void;
};

/** A valid key. `restriction` is undefined if the key may do everything from any address. */
type CheckedKey = KeyOwner & { restriction: Restriction | undefined };

/** What a key may do, and from which addresses. An undefined property restricts nothing. */
type Restriction = { scopes: Scope[] | undefined; hasAddress: ((address: string) => boolean) | undefined };

/** The connection and the address of a request. Unknown keys are counted per address. */
export type KeySender = Pick<Request, 'socket' | 'ip'>;

type AuthenticatorDeps = {
  /** Returns the owners by the SHA-256 of the keys, in hex. */
  findOwners: (keyHashes: string[]) => Promise<Map<string, KeyOwner>>;
  /** Returns the revision of the keys, which changes when a key ends or a limit changes. */
  readRevision: () => Promise<string>;
  breaker: CircuitBreaker;
  unknownKeys: UnknownKeyCounter;
};

/** A cached key takes a few hundred bytes. */
const MAX_KNOWN_KEYS = 50_000;
const MAX_UNKNOWN_KEYS = 10_000;
const MAX_TEXTS = 10_000;
/** How long an answer of PostgreSQL is trusted. A revoked key or a changed limit takes effect everywhere within it. */
const TRUST_MS = 1_000;
const POLL_INTERVAL_MS = 400;
/**
 * A cached key is looked up again after this time even if the revision is the same, in case the triggers that change
 * the revision are disabled. Each key gets a random age between half of it and all of it, so that not all keys age at
 * once.
 */
const MAX_AGE_MS = 10 * 60 * 1_000;
const UNKNOWN_TTL_MS = 10_000;
const MAX_LOOKED_UP = 1_000;

/** `isCurrent`: false after it was replaced or evicted. */
type KnownKey = CheckedKey & {
  revision: string;
  askedAt: number;
  agesAt: number;
  endsAt: number;
  isCurrent: boolean;
};

/**
 * Caches API keys by their SHA-256. PostgreSQL keeps a revision that changes when a key ends or a limit changes. The
 * authenticator reads it every 400 ms in the background. While the revision is the same, all cached keys are valid, so
 * no request with a cached key waits for PostgreSQL. If the revision changes, the authenticator looks up all cached
 * keys again in the background. While PostgreSQL is down, all cached keys stay valid until their expiry.
 *
 * A key that is not cached counts as a guess by its address until PostgreSQL confirms the key. If an address has made
 * too many guesses, its keys wait in a separate queue (`unknown-keys.ts`) instead of being refused, because another
 * partner behind the same proxy may have sent a valid key.
 */
export function createAuthenticator(deps: AuthenticatorDeps): Authenticator {
  const { findOwners, readRevision, breaker, unknownKeys } = deps;
  const known = new LRUCache<string, KnownKey>({
    max: MAX_KNOWN_KEYS,
    dispose: (key) => {
      key.isCurrent = false;
    },
  });
  /**
   * The same keys by their text, because a SHA-256 costs several look-ups. It is read with `peek`: with 1,000 partners,
   * keeping the order of use takes as long as the rest of the check.
   */
  const byText = new LRUCache<string, KnownKey>({ max: MAX_TEXTS });
  /** When PostgreSQL was asked, by hash. */
  const unknown = new LRUCache<string, number>({ max: MAX_UNKNOWN_KEYS, ttl: UNKNOWN_TTL_MS });

  /** The last two revisions. A key that was looked up at a revision is trusted until `trustedUntil`. */
  let current = { revision: '', trustedUntil: 0 };
  let previous = current;

  async function findAll(hashes: string[]): Promise<(CheckedKey | undefined)[]> {
    if (breaker.isOpen) throw new Fault('KEYS_UNAVAILABLE');
    const query = { revision: current.revision, askedAt: performance.now() };
    const found = await breaker.run(() => findOwners(hashes));
    return hashes.map((hash) => remember(hash, found.get(hash), query));
  }
  /** New keys have a partition of their own, so that they do not wait while all cached keys are looked up again. */
  const lookUps = new GroupCommit<'new' | 'known', string, CheckedKey | undefined>({
    commit: (_, hashes) => findAll(hashes),
    maxBatch: MAX_LOOKED_UP,
    maxInFlight: 2,
  });
  const lookUpThrottled = createThrottledLookUp(findAll);

  function remember(
    hash: string,
    owner: KeyOwner | undefined,
    { revision, askedAt }: { revision: string; askedAt: number },
  ): CheckedKey | undefined {
    const latest = known.peek(hash);
    // A slow answer must not undo a newer one, such as that the key was revoked.
    if (askedAt < (latest?.askedAt ?? unknown.get(hash) ?? 0)) return latest;
    if (owner === undefined) {
      known.delete(hash);
      unknown.set(hash, askedAt);
      return undefined;
    }
    unknown.delete(hash);
    const endsAt = askedAt + (owner.endsInMs ?? Number.POSITIVE_INFINITY);
    const agesAt = Math.min(askedAt + MAX_AGE_MS * (0.5 + Math.random() / 2), endsAt);
    const restriction = toRestriction(owner);
    const key = { ...owner, restriction, revision, askedAt, agesAt, endsAt, isCurrent: true };
    known.set(hash, key);
    return key;
  }

  /**
   * Look-ups in flight by hash: concurrent requests with the same key count as one guess. Throttled ones are not here.
   */
  const underWay = new Map<string, Promise<CheckedKey>>();
  function lookUp(hash: string, from: KeySender): Promise<CheckedKey> {
    const found = underWay.get(hash);
    if (found) return found;
    if (known.has(hash)) return share(hash, renew(hash));
    const uncount = unknownKeys.take(from.ip ?? '');
    return uncount ? share(hash, tryKey(hash, uncount)) : tryThrottled(hash, from);
  }

  function share(hash: string, lookingUp: Promise<CheckedKey>): Promise<CheckedKey> {
    const found = lookingUp.finally(() => underWay.delete(hash));
    underWay.set(hash, found);
    return found;
  }

  async function renew(hash: string): Promise<CheckedKey> {
    const owner = await lookUps.run('new', hash).catch((cause) => {
      const latest = known.peek(hash); // another look-up may have found a change meanwhile
      if (!breaker.isOpen || !latest || performance.now() >= latest.endsAt) {
        throw new Fault('KEYS_UNAVAILABLE', { cause });
      }
      return latest;
    });
    if (!owner) throw new Fault('KEY_UNKNOWN');
    return owner;
  }

  async function tryKey(hash: string, uncount: () => void): Promise<CheckedKey> {
    const owner = await lookUps.run('new', hash).catch((cause) => {
      uncount();
      throw new Fault('KEYS_UNAVAILABLE', { cause });
    });
    if (!owner) throw new Fault('KEY_UNKNOWN');
    uncount();
    return owner;
  }

  async function tryThrottled(hash: string, { socket, ip = '' }: KeySender): Promise<CheckedKey> {
    const owner = await lookUpThrottled(hash, socket).catch((cause) => {
      throw new Fault('KEYS_UNAVAILABLE', { cause });
    });
    if (!owner) throw new Fault('TOO_MANY_UNKNOWN_KEYS', { retryAfterSeconds: unknownKeys.secondsLeft(ip) });
    return owner;
  }

  function isTrusted({ revision, agesAt, endsAt }: KnownKey): boolean {
    const now = performance.now();
    if (breaker.isOpen) return now < endsAt;
    return now < agesAt && now < trustedUntil(revision);
  }

  function trustedUntil(revision: string): number {
    if (revision === current.revision) return current.trustedUntil;
    return revision === previous.revision ? previous.trustedUntil : 0;
  }

  /** The revision at which the cached keys were looked up again, or are being looked up. */
  let renewed = '';

  async function poll(): Promise<void> {
    if (breaker.isOpen) return;
    const trustedUntil = performance.now() + TRUST_MS;
    const revision = await breaker.run(readRevision);
    // The same string object as in the cached keys, because V8 compares equal strings faster if they are one object.
    if (revision === current.revision) current = { ...current, trustedUntil };
    else [previous, current] = [current, { revision, trustedUntil }];
    if (revision === renewed) return;
    renewed = revision;
    const outdated = [...known].filter(([, key]) => key.revision !== revision);
    await Promise.all(outdated.map(([hash]) => lookUps.run('known', hash))).catch((error) => {
      renewed = '';
      throw error;
    });
  }
  const pollInBackground = () => void poll().catch(() => {}); // the circuit breaker has recorded the failure
  pollInBackground();
  const timer = setInterval(pollInBackground, POLL_INTERVAL_MS);

  return {
    authenticate(apiKey, from) {
      const cached = byText.peek(apiKey);
      if (cached?.isCurrent && isTrusted(cached)) return cached;
      const hash = hashApiKey(apiKey);
      const key = known.get(hash);
      if (key && isTrusted(key)) {
        byText.set(apiKey, key);
        return key;
      }
      if (!isApiKey(apiKey) || unknown.has(hash)) throw new Fault('KEY_UNKNOWN');
      if (breaker.isOpen) throw new Fault('KEYS_UNAVAILABLE');
      return lookUp(hash, from);
    },
    close: () => clearInterval(timer),
  };
}

function toRestriction({ scopes, addresses }: KeyOwner): Restriction | undefined {
  if (scopes === undefined && addresses === undefined) return undefined;
  return { scopes, hasAddress: addresses && createAddressCheck(addresses) };
}

/**
 * Requires a valid API key and stores its project and limit in the request context.
 * @param scope what the key must be allowed to do; without it, any key will do
 * @throws Fault KEY_MISSING, PROJECT_PAUSED, KEY_ADDRESS or KEY_SCOPE, or as `authenticate`
 */
export function requireProject({ authenticate }: Pick<Authenticator, 'authenticate'>, scope?: Scope): RequestHandler {
  return (request, response, next) => {
    const apiKey = request.headers['x-api-key'];
    if (!apiKey) throw new Fault('KEY_MISSING');
    const owner = authenticate(String(apiKey), request);
    if (!(owner instanceof Promise)) return proceed(owner);
    owner.then(proceed, next);

    function proceed({ keyId, projectId, limit, isPaused, restriction }: CheckedKey): void {
      const context = contextOf(response);
      context.keyId = keyId;
      context.projectId = projectId;
      context.limit = limit;
      if (isPaused) next(new Fault('PROJECT_PAUSED'));
      else if (restriction === undefined) next();
      else next(findRefusal(restriction, scope, request));
    }
  };
}

function findRefusal(
  { scopes, hasAddress }: Restriction,
  scope: Scope | undefined,
  { ip = '' }: Request,
): Fault | undefined {
  if (hasAddress && !hasAddress(ip)) return new Fault('KEY_ADDRESS');
  return scope && scopes && !scopes.includes(scope) ? new Fault('KEY_SCOPE') : undefined;
}

/** For routes that need no key: a request that has an invalid one still gets 401. */
export function refuseWrongKey(authenticator: Pick<Authenticator, 'authenticate'>): RequestHandler {
  const requireOwner = requireProject(authenticator);
  return (request, response, next) => (request.headers['x-api-key'] ? requireOwner(request, response, next) : next());
}

/** Answers a path that cannot be decoded. Express decodes it before any handler, so the key is checked here. */
export function refusePath(authenticated: RequestHandler): ErrorRequestHandler {
  return (error, request, response, next) => {
    if (!(error instanceof URIError)) return next(error);
    return authenticated(request, response, (fault) => next(fault ?? new Fault('PATH_MALFORMED')));
  };
}
