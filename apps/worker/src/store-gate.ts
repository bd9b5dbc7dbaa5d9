import { setTimeout as delay } from 'node:timers/promises';
import { Postponed, retryDelayMs } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import { failureKindOf } from '@opm/store';

export type StoreGate = {
  /** Makes a call for several jobs. @throws Postponed while PostgreSQL is away, and whatever else the call throws */
  run<T>(call: () => Promise<T>): Promise<T>;
  /**
   * Makes a call for a job that was begun `start` times and goes alone. Where others get through and it does not, it is
   * to blame: it is postponed for longer and longer, and nobody waits for it. @throws Postponed, and whatever else the call throws
   */
  runAlone<T>(start: number, call: () => Promise<T>): Promise<T>;
};

export type StoreGateDeps = {
  /** Resolves when PostgreSQL answers. */
  ping: () => Promise<void>;
  worker: { pause(): void; resume(): void };
  logger: Logger;
  /** Hears when an outage begins and ends. */
  onPaused: (isPaused: boolean) => void;
  /** Ends the probing. */
  signal: AbortSignal;
};

const MAX_PROBE_DELAY_MS = 10_000;

/**
 * One outage, from the first statement that met it: the worker takes no more jobs, PostgreSQL is probed with growing
 * delays until it answers, the worker takes jobs again, and the first statement that succeeds ends it. A server that
 * answers probes but takes no statements (of a read-only standby, say) is probed less and less, and logged once.
 */
export function createStoreGate({ ping, worker, logger, onPaused, signal }: StoreGateDeps): StoreGate {
  let isClosed = false;
  let probes = 0;
  let isOutage = false;

  async function probe(): Promise<void> {
    do {
      await delay(retryDelayMs(++probes, { maxMs: MAX_PROBE_DELAY_MS }), undefined, { signal });
    } while (!(await isThere()));
    isClosed = false;
    worker.resume();
  }

  const isThere = () =>
    ping().then(
      () => true,
      () => false,
    );

  function close(error: unknown): void {
    if (isClosed) return; // statements that were under way together fail together
    isClosed = true;
    worker.pause();
    if (!isOutage) {
      isOutage = true;
      onPaused(true);
      logger.warn({ err: error }, 'paused: PostgreSQL does not take statements');
    }
    probe().catch(() => {}); // aborted: the process ends
  }

  function endOutage(): void {
    if (!isOutage || isClosed) return;
    isOutage = false;
    probes = 0;
    onPaused(false);
    logger.info('resumed: PostgreSQL takes statements again');
  }

  /** @param onOutage says for how long the call's jobs are postponed */
  async function attempt<T>(
    call: () => Promise<T>,
    start: number,
    onOutage: (error: unknown) => number | Promise<number>,
  ): Promise<T> {
    if (isClosed) throw new Postponed('PostgreSQL is away');
    try {
      const result = await call();
      endOutage();
      return result;
    } catch (error) {
      const kind = failureKindOf(error);
      if (kind !== 'outage' && kind !== 'blocked') throw error;
      const delayMs = kind === 'outage' ? await onOutage(error) : retryDelayMs(start);
      throw new Postponed('PostgreSQL does not take the statement', { cause: error, delayMs, reason: kind });
    }
  }

  return {
    run: (call) =>
      attempt(call, 1, (error) => {
        close(error);
        return 0;
      }),
    runAlone: (start, call) =>
      attempt(call, start, async (error) => {
        const isAway = !(await isThere());
        if (isAway || isOutage) close(error);
        // Where PostgreSQL is there, another job may get through and end the outage: this one makes room for it.
        return isAway ? 0 : retryDelayMs(start);
      }),
  };
}
