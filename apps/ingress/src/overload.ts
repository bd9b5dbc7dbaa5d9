import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Fault, type FaultCode } from '@opm/contract';
import type { QueueLoad } from '@opm/queue';
import type { Logger } from '@opm/runtime';

export type Overload = {
  /** @throws Fault QUEUE_FULL or OVERLOADED while no more entries are to be accepted */
  check(): void;
  /** Reads need no room in the queue, only time. @throws Fault CUSTOMERS_UNAVAILABLE while there is none */
  checkRead(): void;
  /** What it goes by, as it was read last. */
  readonly last: Readonly<QueueLoad>;
  close(): void;
};

export type OverloadDeps = {
  load: () => Promise<QueueLoad>;
  maxBacklog: number;
  maxEventLoopDelayMs: number;
  /** Hears of every entry and every read that is turned away. */
  onShed: (reason: Reason) => void;
  logger: Logger;
};

type Reason = 'backlog' | 'memory' | 'event-loop';

const FAULT: Record<Reason, FaultCode> = {
  backlog: 'QUEUE_FULL',
  memory: 'QUEUE_FULL',
  'event-loop': 'OVERLOADED',
};

const SAMPLE_INTERVAL_MS = 250;
const TICK_MS = 20;
/** Workers need memory to take jobs out, too. */
const MAX_MEMORY_USE = 0.9;

/**
 * Turns requests away before they make things worse for those that are under way. What it goes by is sampled four times a
 * second, so that a request costs one look at a variable.
 */
export function createOverload(deps: OverloadDeps): Overload {
  const { load, maxBacklog, maxEventLoopDelayMs, onShed, logger } = deps;
  const eventLoop = monitorEventLoopDelay({ resolution: TICK_MS });
  eventLoop.enable();
  let last: QueueLoad = { entries: 0, memory: 0 };
  let reason: Reason | undefined;
  let isLoading = false;

  function sample(): void {
    if (!isLoading) {
      isLoading = true;
      // A queue that does not answer is met by those who turn to it; what was known of it stays until it does.
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
    note(findReason(delayMs));
  }

  /** The one that concerns reads before those that do not. */
  function findReason(delayMs: number): Reason | undefined {
    if (delayMs > maxEventLoopDelayMs) return 'event-loop';
    if (last.entries >= maxBacklog) return 'backlog';
    return last.memory >= MAX_MEMORY_USE ? 'memory' : undefined;
  }

  function note(now: Reason | undefined): void {
    if (now === reason) return;
    if (now) logger.warn({ reason: now, ...last }, 'too much to do: no entries are accepted');
    else logger.info({ reason, ...last }, 'entries are accepted again');
    reason = now;
  }

  const timer = setInterval(sample, SAMPLE_INTERVAL_MS);

  return {
    check() {
      if (reason === undefined) return;
      onShed(reason);
      throw new Fault(FAULT[reason]);
    },
    checkRead() {
      if (reason !== 'event-loop') return;
      onShed(reason);
      throw new Fault('CUSTOMERS_UNAVAILABLE');
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
