import { setTimeout as delay } from 'node:timers/promises';
import { Postponed, retryDelayMs } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import { failureKindOf } from '@opm/store';

/** Makes the call while PostgreSQL is there. @throws Postponed when it is not, and whatever else the call throws */
export type StoreGate = <T>(call: () => Promise<T>) => Promise<T>;

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
 * answers probes but takes no statements (a table is missing, say) is probed less and less, and logged once.
 */
export function createStoreGate({ ping, worker, logger, onPaused, signal }: StoreGateDeps): StoreGate {
  let isClosed = false;
  let probes = 0;
  let isOutage = false;

  async function probe(): Promise<void> {
    do {
      await delay(retryDelayMs(++probes, { maxMs: MAX_PROBE_DELAY_MS }), undefined, { signal });
    } while (
      !(await ping().then(
        () => true,
        () => false,
      ))
    );
    isClosed = false;
    worker.resume();
  }

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

  return async (call) => {
    if (isClosed) throw new Postponed('PostgreSQL is away');
    try {
      const result = await call();
      endOutage();
      return result;
    } catch (error) {
      if (failureKindOf(error) !== 'outage') throw error;
      close(error);
      throw new Postponed('PostgreSQL is away', { cause: error });
    }
  };
}
