import { singleFlight, withTimeout } from '@opm/core';
import { countUnfinished } from './backlog.js';
import { type QueueBackend, toAddresses } from './queue-store.js';

const TIMEOUT_MS = 2_000;
/** For one read of the stored number. */
const READ_TIMEOUT_MS = 1_000;
/** For the check that the queue is drained. It cannot finish while a Redis master is down. */
const CHANGE_TIMEOUT_MS = 10_000;

/** How Redis begins the error of a command that the user may not run, or not on this key. */
const NO_PERMISSION = 'NOPERM';

/** QUEUE_SHARDS differs from the queue's number of shards. The operator must fix it. */
export class ShardsError extends Error {
  override readonly name = 'ShardsError';
}

type ShardCheck = {
  /** Whether the number of shards last read from the queue differs from this process's. */
  differs(): boolean;
  /**
   * Reads the number again. Resolves to a warning if it was never read.
   * @throws ShardsError if it differs, or the error of Redis if its user has no right to read it
   */
  check(): Promise<string | void>;
};

/**
 * Starts the shard count check. If processes had different numbers of shards, they would put a customer's entries into
 * different shards, or into a shard without workers.
 *
 * The first process stores its number. A process with another number replaces it if the queue is drained and no worker
 * runs, and otherwise does not start. If the store does not answer, the process starts, and `check` reads again. With
 * `onlyReads`, the process stores no number, and starts even if the stored number differs.
 * @throws ShardsError
 */
export async function createShardCheck(
  backend: QueueBackend,
  shards: number,
  { onlyReads = false, onError }: { onlyReads?: boolean | undefined; onError: (error: Error) => void },
): Promise<ShardCheck> {
  const { admission } = backend;
  let stored: number | undefined;
  const read = singleFlight(async () => {
    stored = (await admission.readShards()) ?? (onlyReads ? shards : await admission.setShards(shards));
  }, READ_TIMEOUT_MS);

  try {
    if (!onlyReads) stored = await withTimeout(admission.setShards(shards), TIMEOUT_MS);
    if (stored !== undefined && stored !== shards) stored = await tryChange(backend, shards, stored);
    assertSameNumber(shards, stored ?? shards);
  } catch (error) {
    if (error instanceof ShardsError) {
      await backend.close();
      throw error;
    }
    onError(error as Error);
  }
  return {
    differs: () => stored !== undefined && stored !== shards,
    async check() {
      const failure: Error | void = await read().catch((error) => error);
      if (failure?.message.startsWith(NO_PERMISSION)) throw failure;
      if (stored === undefined) return `number of shards could not be read: ${failure?.message}`;
      assertSameNumber(shards, stored);
    },
  };
}

/** Runs the store's check and the shard count check. Resolves to their warnings, if any. */
export async function checkStoreAndShards(backend: QueueBackend, { check }: ShardCheck): Promise<string | void> {
  const warnings = await Promise.all([backend.check(), check()]);
  return warnings.filter(Boolean).join('; ') || undefined;
}

/** Replaces the stored number if the queue is drained and has no workers. @returns the number that is then stored */
function tryChange(backend: QueueBackend, shards: number, stored: number): Promise<number> {
  const { admission } = backend;
  async function change(): Promise<number> {
    if (await isIdle(backend, stored)) return admission.setShards(shards, stored);
    return (await admission.readShards()) ?? stored; // the worker may have replaced the number and started meanwhile
  }
  return withTimeout(change(), CHANGE_TIMEOUT_MS).catch(() => stored);
}

/** The check of read-only processes, which store no number. Ignores an unreachable store. @throws ShardsError */
export async function checkShards({ admission }: QueueBackend, shards: number): Promise<void> {
  const stored = await withTimeout(admission.readShards(), READ_TIMEOUT_MS).catch(() => undefined);
  assertSameNumber(shards, stored ?? shards);
}

function assertSameNumber(shards: number, stored: number): void {
  if (stored === shards) return;
  throw new ShardsError(
    `QUEUE_SHARDS is ${shards}, but the queue has ${stored}: to change it, drain the queue and stop all workers`,
  );
}

async function isIdle(backend: QueueBackend, shards: number): Promise<boolean> {
  const counts = toAddresses(shards).map(async (address) => {
    const queue = await backend.openQueue(address, { skipMetasUpdate: true });
    const [jobs, workers] = await Promise.all([countUnfinished(queue), queue.getWorkersCount()]);
    await queue.close(); // on PostgreSQL each queue has its own connections
    return jobs + workers;
  });
  return (await Promise.all(counts)).every((count) => count === 0);
}
