import type { Fault } from '@opm/contract';
import { GroupCommit, type RateLimit, withTimeout } from '@opm/core';
import type { EntryQueue } from '@opm/queue';
import { createThrottledWarning, type Logger } from '@opm/runtime';
import { LRUCache } from 'lru-cache';
import type { TimeBudget } from '../config.js';
import type { Sender } from '../http/request-context.js';
import { createToFault, type OnShed, shed } from './overload.js';
import { TokenReservation } from './token-reservation.js';

export type RateLimiter = {
  /** @returns how many entries, counted from the first, have a token @throws Fault OVERLOADED or QUEUE_UNAVAILABLE */
  take(sender: Sender, entries: number): number | Promise<number>;
  /** Creates the fault for entries that exceeded the limit, and counts them. */
  refuse(sender: Sender, entries: number): Fault;
  /**
   * Called before a body is read.
   * @throws Fault RATE_LIMITED while earlier refused requests have used more tokens than the bucket had
   */
  check(sender: Sender): void;
  /**
   * Takes tokens for refused content. Never rejects, so the answer stays the same.
   * @returns undefined if there is nothing to wait for
   */
  charge(sender: Sender, tokens: number): Promise<void> | undefined;
};

type RateLimiterDeps = {
  reserve: EntryQueue['reserve'];
  budget: Pick<TimeBudget, 'tokensMs' | 'tokensTurnMs'>;
  /** Maximum number of requests that wait for tokens at the same time. */
  maxPending: number;
  /** Called for each token reservation. */
  onReserve: () => void;
  onShed: OnShed;
  logger: Logger;
};

const MAX_RESERVATIONS = 10_000;

/** Limits the entries that projects may send. A project without a limit always has tokens. */
export function createRateLimiter(deps: RateLimiterDeps): RateLimiter {
  const { reserve: reserveTokens, budget, maxPending, onReserve, onShed, logger } = deps;
  const reservations = new LRUCache<number, TokenReservation>({ max: MAX_RESERVATIONS });
  const warnUnavailable = createThrottledWarning(
    logger,
    'could not reserve tokens; entries of the rate-limited project get 503',
  );
  const toFault = createToFault(warnUnavailable);

  /** Concurrent requests of a project that find too few tokens share one reservation. */
  const waiting = new GroupCommit<TokenReservation, number, number>({
    async commit(reservation, wanted) {
      const entries = wanted.reduce((a, b) => a + b, 0);
      let now = performance.now();
      if (reservation.isShort(entries, now)) {
        onReserve();
        const call = reserveTokens(reservation.projectId, reservation.limit, reservation.toCall(entries, now));
        try {
          const reserved = await withTimeout(call, budget.tokensMs).catch(giveUp);
          now = performance.now();
          reservation.onReserved(reserved, now);
        } finally {
          reservation.endCall(); // after `onReserved`, or requests in between would find neither tokens nor a call
        }
      }
      return wanted.map((count) => reservation.use(count, now));
    },
    maxBatch: Number.POSITIVE_INFINITY,
    maxInFlight: Number.POSITIVE_INFINITY, // the bucket of one project may be on a Redis master that hangs
    maxInFlightPerPartition: 1,
    expiry: {
      maxWaitMs: budget.tokensTurnMs,
      toError(entries) {
        warnUnavailable(
          new Error(`requests waited longer than ${budget.tokensTurnMs} ms for another token reservation`),
        );
        return shed(onShed, 'waited', entries);
      },
    },
  });

  function giveUp(error: Error): never {
    throw toFault(error);
  }

  function reservationOf(projectId: number, limit: RateLimit): TokenReservation {
    const known = reservations.get(projectId);
    if (known?.limit.rate === limit.rate && known.limit.burst === limit.burst) return known;
    const reservation = new TokenReservation(projectId, limit);
    reservations.set(projectId, reservation);
    return reservation;
  }

  /** @returns how many entries, counted from the first, have a token */
  function take(sender: Sender, limit: RateLimit, entries: number): number | Promise<number> {
    const reservation = reservationOf(sender.projectId, limit);
    sender.reservation = reservation;
    const now = performance.now();
    if (!reservation.isShort(entries, now)) return reservation.use(entries, now);
    if (waiting.pending < maxPending) return waiting.run(reservation, entries);
    throw shed(onShed, 'in-flight', entries);
  }

  function refuse({ reservation }: Sender, entries: number): Fault {
    const retryAfterSeconds = reservation?.secondsUntil(entries, performance.now()) ?? 1;
    return shed(onShed, 'rate-limit', entries, { retryAfterSeconds });
  }

  async function chargeLimited(sender: Sender, limit: RateLimit, tokens: number): Promise<void> {
    const taken = await take(sender, limit, tokens);
    if (taken < tokens) sender.reservation?.block(tokens - taken, performance.now());
  }

  return {
    take: (sender, entries) => (sender.limit ? take(sender, sender.limit, entries) : entries),
    refuse,
    check(sender) {
      if (!sender.limit || !reservations.get(sender.projectId)?.isBlocked(performance.now())) return;
      sender.reservation = reservationOf(sender.projectId, sender.limit);
      throw refuse(sender, 1);
    },
    charge(sender, tokens) {
      if (!sender.limit || tokens === 0) return undefined;
      // If the store does not answer, the partner still gets the reason of the refusal.
      return chargeLimited(sender, sender.limit, tokens).catch(() => {});
    },
  };
}

const MAX_FULL_PROJECTS = 10_000;

export type RecordLimit = ReturnType<typeof createRecordLimit>;

/**
 * Tracks which projects' idempotency records have reached their limit in a shard. Admission reports the bytes of a
 * sample of records.
 */
export function createRecordLimit(idempotency: Pick<EntryQueue['idempotency'], 'readBytes' | 'maxBytes'>) {
  const full = new LRUCache<number, true>({ max: MAX_FULL_PROJECTS });
  const isOver = (bytes: number) => bytes >= idempotency.maxBytes();
  return {
    onBytes(ofProjects: Map<number, number>): void {
      for (const [projectId, bytes] of ofProjects) if (isOver(bytes)) full.set(projectId, true);
    },
    mayBeFull: (projectId: number) => full.size > 0 && full.has(projectId),
    /** Whether the project's records are at their limit in one of the shards. @throws Fault QUEUE_UNAVAILABLE */
    async isFull(projectId: number, shards: number[]): Promise<boolean> {
      const bytes = await Promise.all([...new Set(shards)].map((shard) => idempotency.readBytes(shard, projectId)));
      if (bytes.some(isOver)) return true;
      full.delete(projectId);
      return false;
    },
  };
}
