import { setTimeout as delay } from 'node:timers/promises';
import { Postponed, retryDelayMs } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import { failureKindOf, StoreError } from '@opm/store';

export type OutageGate = {
  /**
   * Runs a call to PostgreSQL.
   * @throws Postponed during an outage. Rethrows any other error of the call, because the call's data caused it
   */
  run<T>(call: () => Promise<T>): Promise<T>;
  /**
   * Tests whether PostgreSQL still accepts writes. Call it before you dead-letter entries.
   * @throws Postponed during an outage
   */
  check(): Promise<void>;
};

type OutageGateDeps = {
  /** Resolves if PostgreSQL answers. */
  ping: () => Promise<void>;
  /** Resolves if PostgreSQL accepts a test write, which touches no entry's data. */
  tryWrite: () => Promise<void>;
  worker: { pause(): void; resume(): void };
  logger: Logger;
  /** Called when an outage begins and when it ends. */
  onPaused: (isPaused: boolean) => void;
  /** Stops the probes. */
  signal: AbortSignal;
};

const MAX_PROBE_DELAY_MS = 10_000;
/**
 * An outage error this soon after a successful write, in ms, is blamed on the data without a test write: isolation runs
 * many statements.
 */
const FRESH_MS = 1_000;

/**
 * Pauses the worker during an outage of PostgreSQL:
 *
 * 1. A statement fails with an outage error. The worker stops taking jobs.
 * 2. The gate probes PostgreSQL with increasing delays until it answers. The worker takes jobs again.
 * 3. The first write that succeeds ends the outage: one of a job, or a test write. The worker may get no job, so the
 *    gate goes on with test writes.
 *
 * The delays grow until a job's write succeeds. So the gate logs the outage once if the server answers probes but
 * rejects writes, as a read-only standby does.
 *
 * A trigger may raise any SQLSTATE, so a single entry can cause an outage error. If a test write succeeds, the gate
 * blames the entry and does not pause.
 */
export function createOutageGate(deps: OutageGateDeps): OutageGate {
  const { ping, tryWrite, worker, logger, onPaused, signal } = deps;
  let isPaused = false;
  let probes = 0;
  /** Aborted when the outage ends; undefined if there is none. */
  let outage: AbortController | undefined;
  let succeededAt = Number.NEGATIVE_INFINITY;

  /** Probes until the outage ends. @throws AbortError then */
  async function probe(ended: AbortSignal): Promise<never> {
    for (;;) {
      await delay(retryDelayMs(++probes, { maxMs: MAX_PROBE_DELAY_MS }), undefined, { signal: ended });
      if (isPaused) {
        const isUp = await ping().then(
          () => true,
          () => false,
        );
        if (!isUp) continue;
        isPaused = false;
        worker.resume();
      }
      await acceptsWrites();
    }
  }

  function pause(error: unknown): void {
    if (isPaused) return; // statements in flight at the same time fail together
    isPaused = true;
    worker.pause();
    if (outage) return;
    outage = new AbortController();
    onPaused(true);
    logger.warn({ err: error }, 'paused: PostgreSQL does not accept statements; probing until it does');
    probe(AbortSignal.any([signal, outage.signal])).catch(() => {});
  }

  function onSuccess(): void {
    succeededAt = performance.now();
    if (!outage || isPaused) return;
    outage.abort();
    outage = undefined;
    onPaused(false);
    logger.info('resumed: PostgreSQL accepts statements again');
  }

  async function acceptsWrites(): Promise<boolean> {
    const since = performance.now();
    try {
      await tryWrite();
      onSuccess();
      return true;
    } catch (error) {
      if (succeededAt > since) return true; // another write succeeded meanwhile
      return failureKindOf(error) !== 'outage' && hasSqlState(error);
    }
  }

  async function isOutageOf(error: unknown): Promise<boolean> {
    if (failureKindOf(error) !== 'outage') return false;
    if (!hasSqlState(error)) return true;
    return performance.now() - succeededAt > FRESH_MS && !(await acceptsWrites());
  }

  function postpone(cause: unknown): never {
    pause(cause);
    throw new Postponed('PostgreSQL does not accept statements', { cause });
  }

  return {
    async run(call) {
      if (isPaused) throw new Postponed('the worker is paused: PostgreSQL does not accept statements');
      try {
        const result = await call();
        onSuccess();
        if (!isPaused) probes = 0;
        return result;
      } catch (error) {
        if (!(await isOutageOf(error))) throw error;
        return postpone(error);
      }
    },
    async check() {
      if (isPaused || !(await acceptsWrites())) postpone(new Error('PostgreSQL does not accept writes'));
    },
  };
}

/** Without a SQLSTATE, PostgreSQL has not judged the statement: the connection failed. */
const hasSqlState = (error: unknown): boolean => error instanceof StoreError && error.sqlState !== undefined;
