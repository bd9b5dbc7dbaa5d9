import { Fault } from '@opm/contract';
import { GroupCommit, type RateLimit, withTimeout } from '@opm/core';
import type { EntryQueue } from '@opm/queue';
import { createSparseWarning, type Logger } from '@opm/runtime';
import { LRUCache } from 'lru-cache';
import type { AcceptEntries, AcceptEntry, Requester, Said, Verdict } from './accept-entry.js';
import { Lease } from './lease.js';
import type { TimeBudget } from './time-budget.js';

/** Whose request it is. `lease` is noted where the project has a limit, for what the answer says of it. */
export type Sender = Requester & { limit: RateLimit | undefined; lease: Lease | undefined };

export type RateLimiter = {
  /** As `AcceptEntry`. @throws Fault RATE_LIMITED, too */
  acceptEntry(sender: Sender, entry: Said): Promise<Verdict>;
  /** As `AcceptEntries`, for the first ones: there are fewer outcomes than entries where the limit is reached. */
  acceptEntries(sender: Sender, entries: Said[]): Promise<(Verdict | Fault)[]>;
  /** What to tell of entries that were not let through. */
  refuse(sender: Sender, entries: number): Fault;
  /** Before a body is read. @throws Fault RATE_LIMITED while what was refused before has taken more tokens than there were */
  check(sender: Sender): void;
  /** Takes the tokens of what was refused; undefined where there is nothing to wait for. What is told of it stays the same. */
  charge(sender: Sender, tokens: number): Promise<void> | undefined;
};

const KIB = 1024;

/** For something that is refused: without, it would be free. */
export const toTokens = (bytes: number): number => Math.max(1, Math.ceil(bytes / KIB));

export type RateLimiterDeps = {
  acceptEntry: AcceptEntry;
  acceptEntries: AcceptEntries;
  lease: EntryQueue['lease'];
  budget: Pick<TimeBudget, 'tokensMs' | 'tokensTurnMs'>;
  /** Requests that may wait for tokens at the same time. */
  maxPending: number;
  /** Hears of each call for tokens. */
  onLease: () => void;
  onShed: (reason: 'rate-limit' | 'in-flight' | 'waited', entries: number) => void;
  logger: Logger;
};

const MAX_LEASES = 10_000;

/** Lets through what projects may send, before anything is done with it; those without a limit notice nothing of it. */
export function createRateLimiter(deps: RateLimiterDeps): RateLimiter {
  const { acceptEntry, acceptEntries, lease: leaseTokens, budget, maxPending, onLease, onShed, logger } = deps;
  const leases = new LRUCache<number, Lease>({ max: MAX_LEASES });
  const warnUnavailable = createSparseWarning(logger, 'no tokens could be leased');

  /** Requests that find too few tokens at the same time wait for one call. */
  const waiting = new GroupCommit<Lease, number, number>({
    async commit(lease, wanted) {
      const entries = wanted.reduce((a, b) => a + b, 0);
      let now = performance.now();
      if (lease.isShort(entries, now)) {
        onLease();
        const call = leaseTokens(lease.projectId, lease.limit, lease.toCall(entries, now));
        const leased = await withTimeout(call, budget.tokensMs).catch(giveUp);
        now = performance.now();
        lease.onLeased(leased, now);
      }
      return wanted.map((some) => lease.use(some, now));
    },
    maxBatch: Number.POSITIVE_INFINITY,
    maxInFlight: Number.POSITIVE_INFINITY, // one project's bucket may be on a master that hangs
    maxInFlightPerLane: 1,
    expiry: {
      maxWaitMs: budget.tokensTurnMs,
      toError(entries) {
        warnUnavailable(new Error(`requests waited for more than ${budget.tokensTurnMs} ms for their turn`));
        return turnAway('waited', entries);
      },
    },
  });

  function turnAway(reason: 'in-flight' | 'waited', entries: number): Fault {
    onShed(reason, entries);
    return new Fault('OVERLOADED');
  }

  function giveUp(error: Error): never {
    warnUnavailable((error.cause as Error | undefined) ?? error);
    throw error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
  }

  function leaseOf(projectId: number, limit: RateLimit): Lease {
    const known = leases.get(projectId);
    if (known?.limit.rate === limit.rate && known.limit.burst === limit.burst) return known;
    const lease = new Lease(projectId, limit);
    leases.set(projectId, lease);
    return lease;
  }

  /** @returns how many of the entries are let through: the first ones */
  function take(sender: Sender, limit: RateLimit, entries: number): number | Promise<number> {
    const lease = leaseOf(sender.projectId, limit);
    sender.lease = lease;
    const now = performance.now();
    if (!lease.isShort(entries, now)) return lease.use(entries, now);
    if (waiting.pending < maxPending) return waiting.run(lease, entries);
    throw turnAway('in-flight', entries);
  }

  function refuse({ lease }: Sender, entries: number): Fault {
    onShed('rate-limit', entries);
    return new Fault('RATE_LIMITED', { retryAfterSeconds: lease?.secondsUntil(entries, performance.now()) ?? 1 });
  }

  async function chargeLimited(sender: Sender, limit: RateLimit, tokens: number): Promise<void> {
    const taken = await take(sender, limit, tokens);
    if (taken < tokens) sender.lease?.bar(tokens - taken, performance.now());
  }

  async function acceptLimited(sender: Sender, limit: RateLimit, entry: Said): Promise<Verdict> {
    if ((await take(sender, limit, 1)) === 0) throw refuse(sender, 1);
    return acceptEntry(sender, entry);
  }

  async function acceptFirst(sender: Sender, limit: RateLimit, entries: Said[]): Promise<(Verdict | Fault)[]> {
    const taken = await take(sender, limit, entries.length);
    return taken === 0 ? [] : acceptEntries(sender, entries.slice(0, taken));
  }

  return {
    acceptEntry: (sender, entry) =>
      sender.limit ? acceptLimited(sender, sender.limit, entry) : acceptEntry(sender, entry),
    acceptEntries: (sender, entries) =>
      sender.limit ? acceptFirst(sender, sender.limit, entries) : acceptEntries(sender, entries),
    refuse,
    check(sender) {
      if (!sender.limit || !leases.get(sender.projectId)?.isBarred(performance.now())) return;
      sender.lease = leaseOf(sender.projectId, sender.limit);
      throw refuse(sender, 1);
    },
    charge(sender, tokens) {
      if (!sender.limit || tokens === 0) return undefined;
      // Where the store does not answer, what was refused is still to be told why.
      return chargeLimited(sender, sender.limit, tokens).catch(() => {});
    },
  };
}
