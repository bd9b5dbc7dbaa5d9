import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Fault, type FaultCode } from '@opm/contract';
import type { QueueLoad } from '@opm/queue';
import type { Logger } from '@opm/runtime';

export type Overload = {
  /** Called for each entry. @throws Fault QUEUE_FULL or OVERLOADED while the ingress refuses entries */
  check(): void;
  /**
   * Called for each read, which a full queue does not affect.
   * @throws Fault `unavailable` if the event loop is late
   */
  checkRead(unavailable: FaultCode): void;
  /** The load of the queue at the last sample. */
  readonly last: Readonly<QueueLoad>;
  close(): void;
};

export type OverloadDeps = {
  load: () => Promise<QueueLoad>;
  maxBacklog: number;
  maxEventLoopDelayMs: number;
  onShed: OnShed;
  logger: Logger;
};

/** Reasons to refuse valid entries, each with the fault that answers them. */
export const SHED = {
  backlog: 'QUEUE_FULL',
  memory: 'QUEUE_FULL',
  'event-loop': 'OVERLOADED',
  'in-flight': 'OVERLOADED',
  waited: 'OVERLOADED',
  'rate-limit': 'RATE_LIMITED',
  'idempotency-keys': 'TOO_MANY_IDEMPOTENCY_KEYS',
} as const satisfies Record<string, FaultCode>;

type ShedReason = keyof typeof SHED;

/** Called with the number of refused entries; a refused read counts as one. */
export type OnShed = (reason: ShedReason, entries: number) => void;

/** Counts refused entries. @returns the fault that answers them */
export function shed(onShed: OnShed, reason: ShedReason, entries = 1, details?: { retryAfterSeconds: number }): Fault {
  onShed(reason, entries);
  return new Fault(SHED[reason], details);
}

/** Logs and converts an error of the queue store. Unless it is a Fault, the call may have taken effect. */
export const createToFault =
  (warn: (error: Error) => void) =>
  (error: Error): Fault => {
    warn((error.cause as Error | undefined) ?? error);
    return error instanceof Fault ? error : new Fault('QUEUE_UNAVAILABLE', { cause: error });
  };

const SAMPLE_INTERVAL_MS = 250;
const TICK_MS = 20;
/** Share of Redis maxmemory. Workers need the rest to dequeue jobs. */
const MAX_MEMORY_USE = 0.9;

/**
 * Refuses requests while the process or the queue is overloaded. The load is sampled four times a second, so a check
 * only reads a variable.
 */
export function createOverload(deps: OverloadDeps): Overload {
  const { load, maxBacklog, maxEventLoopDelayMs, onShed, logger } = deps;
  const eventLoop = monitorEventLoopDelay({ resolution: TICK_MS });
  eventLoop.enable();
  let last: QueueLoad = { entries: 0, memory: 0 };
  let reason: ShedReason | undefined;
  let isLoading = false;

  function sample(): void {
    if (!isLoading) {
      isLoading = true;
      // If the queue does not answer, the last sample stays in use; the requests that need the queue report the error.
      load()
        .then((now) => {
          last = now;
        })
        .catch(() => {})
        .finally(() => {
          isLoading = false;
        });
    }
    const delayMs = eventLoop.percentile(50) / 1e6 - TICK_MS; // it reports the time between two ticks
    eventLoop.reset();
    setReason(findReason(delayMs));
  }

  /** `event-loop` comes first, because it is the only reason that also refuses reads. */
  function findReason(delayMs: number): ShedReason | undefined {
    if (delayMs > maxEventLoopDelayMs) return 'event-loop';
    if (last.entries >= maxBacklog) return 'backlog';
    return last.memory >= MAX_MEMORY_USE ? 'memory' : undefined;
  }

  function setReason(now: ShedReason | undefined): void {
    if (now === reason) return;
    if (now) logger.warn({ reason: now, ...last }, 'overloaded; refusing entries');
    else logger.info({ reason, ...last }, 'no longer overloaded; accepting entries again');
    reason = now;
  }

  const timer = setInterval(sample, SAMPLE_INTERVAL_MS);

  return {
    check() {
      if (reason !== undefined) throw shed(onShed, reason);
    },
    checkRead(unavailable) {
      if (reason !== 'event-loop') return;
      onShed(reason, 1);
      throw new Fault(unavailable);
    },
    get last() {
      return last;
    },
    close() {
      clearInterval(timer);
      eventLoop.disable();
    },
  };
}

const MAX_TICK_MS = 250;
/** After this many turns of the event loop without a new connection, everything sent during a stall has been read. */
const QUIET_TURNS = 3;
/** Node accepts one connection per turn. At most this many can wait for it: Node's default backlog. */
const LISTEN_BACKLOG = 511;

type Stalls = {
  /**
   * Whether a request that began at `startedAt` (`performance.now()`, ms) may have been sent before the end of a stall.
   */
  isStale(startedAt: number): boolean;
  onConnection(): void;
  close(): void;
};

/**
 * Detects that the process stalled, for example because it was frozen, for longer than a request may take. Partners may
 * then have given up and sent something newer to another ingress. After a stall the event loop reads sockets before it
 * runs timers, so `isStale` also checks the clock.
 * @param onStall gets the length of each stall in ms, accurate to one tick
 */
export function watchStalls(maxStallMs: number, onStall: (ms: number) => void): Stalls {
  let tickAt = performance.now();
  let freshFrom = Number.NEGATIVE_INFINITY;
  let quietTurns = 0;
  let accepted = 0;

  function checkClock(): void {
    const now = performance.now();
    const ms = now - tickAt;
    tickAt = now;
    if (ms < maxStallMs) return;
    onStall(Math.round(ms));
    if (freshFrom !== Number.POSITIVE_INFINITY) setImmediate(onTurn);
    freshFrom = Number.POSITIVE_INFINITY;
    quietTurns = 0;
    accepted = 0;
  }

  function onTurn(): void {
    quietTurns++;
    if (quietTurns >= QUIET_TURNS || accepted > LISTEN_BACKLOG) freshFrom = performance.now();
    else setImmediate(onTurn);
  }

  const timer = setInterval(checkClock, Math.min(maxStallMs / 4, MAX_TICK_MS));

  return {
    isStale(startedAt) {
      checkClock();
      return startedAt < freshFrom;
    },
    onConnection() {
      accepted++;
      quietTurns = 0;
    },
    close: () => clearInterval(timer),
  };
}
