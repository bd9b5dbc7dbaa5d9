import { setTimeout as delay } from 'node:timers/promises';
import { Postponed, retryDelayMs } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import { failureKindOf, StoreError } from '@opm/store';

export type StoreGate = {
  /** Makes a call for jobs. @throws Postponed while PostgreSQL takes no writes, and whatever else the call throws: its data is to blame */
  run<T>(call: () => Promise<T>): Promise<T>;
  /** To be asked before entries are blamed. @throws Postponed if PostgreSQL takes no writes any more */
  check(): Promise<void>;
};

export type StoreGateDeps = {
  /** Resolves when PostgreSQL answers. */
  ping: () => Promise<void>;
  /** Resolves when PostgreSQL takes a write that is about nobody's entries. */
  tryWrite: () => Promise<void>;
  worker: { pause(): void; resume(): void };
  logger: Logger;
  /** Hears when an outage begins and ends. */
  onPaused: (isPaused: boolean) => void;
  /** Ends the probing. */
  signal: AbortSignal;
};

const MAX_PROBE_DELAY_MS = 10_000;
/** What fails within this time of a write that passed is taken for the data's fault: isolating it takes many statements. */
const FRESH_MS = 1_000;

/**
 * One outage, from the first statement that met it: the worker takes no more jobs, PostgreSQL is probed with growing
 * delays until it answers, the worker takes jobs again, and the first write that succeeds ends it. A server that
 * answers probes but takes no writes (of a read-only standby, say) is probed less and less, and logged once.
 *
 * What looks like an outage may be one entry's doing, for a trigger may raise any SQLSTATE. If another write passes, it is.
 */
export function createStoreGate(deps: StoreGateDeps): StoreGate {
  const { ping, tryWrite, worker, logger, onPaused, signal } = deps;
  let isClosed = false;
  let probes = 0;
  let isOutage = false;
  let succeededAt = Number.NEGATIVE_INFINITY;

  async function probe(): Promise<void> {
    let isThere = false;
    while (!isThere) {
      await delay(retryDelayMs(++probes, { maxMs: MAX_PROBE_DELAY_MS }), undefined, { signal });
      isThere = await ping().then(
        () => true,
        () => false,
      );
    }
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

  function onSuccess(): void {
    succeededAt = performance.now();
    if (!isOutage || isClosed) return;
    isOutage = false;
    probes = 0;
    onPaused(false);
    logger.info('resumed: PostgreSQL takes statements again');
  }

  async function takesWrites(): Promise<boolean> {
    const since = performance.now();
    try {
      await tryWrite();
      onSuccess();
      return true;
    } catch (error) {
      return failureKindOf(error) !== 'outage' || succeededAt > since; // others' writes pass, if not this one
    }
  }

  async function isOutageOf(error: unknown): Promise<boolean> {
    if (failureKindOf(error) !== 'outage') return false;
    if (!(error instanceof StoreError && error.sqlState)) return true; // not the server's error: there is no session
    return performance.now() - succeededAt > FRESH_MS && !(await takesWrites());
  }

  function postpone(cause: unknown): never {
    close(cause);
    throw new Postponed('PostgreSQL does not take statements', { cause });
  }

  return {
    async run(call) {
      if (isClosed) throw new Postponed('PostgreSQL is away');
      try {
        const result = await call();
        onSuccess();
        return result;
      } catch (error) {
        if (!(await isOutageOf(error))) throw error;
        return postpone(error);
      }
    },
    async check() {
      if (isClosed || !(await takesWrites())) postpone(new Error('PostgreSQL takes no writes'));
    },
  };
}
