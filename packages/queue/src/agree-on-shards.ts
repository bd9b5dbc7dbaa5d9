import { withTimeout } from '@opm/core';
import { countUndone } from './backlog.js';
import { inTime } from './in-time.js';
import type { QueueBackend } from './queue-backend.js';
import { toAddresses } from './shards.js';

const TIMEOUT_MS = 2_000;
/** Of a look. */
const LOOK_TIMEOUT_MS = 1_000;
/** For finding out whether nothing waits. If a master is away, nobody knows what waits there. */
const CHANGE_TIMEOUT_MS = 10_000;

/** What the operator has to mend. */
export class ShardsError extends Error {
  override readonly name = 'ShardsError';
}

export type ShardCheck = {
  /** Whether the queue had another number of shards than this process when it was asked last. */
  differs(): boolean;
  /** Asks the queue; resolves with a word if it has never said. @throws ShardsError */
  check(): Promise<string | void>;
};

/**
 * With different numbers of shards, processes would put a customer's entries into different ones, or into one that no worker
 * takes jobs from. So the first process says how many there are, and others of another opinion do not start, unless nothing
 * waits and no worker runs. If the store does not say, a process starts all the same, and `check` asks again.
 * @throws ShardsError
 */
export async function agreeOnShards(
  backend: QueueBackend,
  shards: number,
  onError: (error: Error) => void,
): Promise<ShardCheck> {
  const { admission } = backend;
  let agreed: number | undefined;
  const ask = inTime(async () => {
    agreed = (await admission.readShards()) ?? (await admission.setShards(shards));
  }, LOOK_TIMEOUT_MS);

  try {
    agreed = await withTimeout(admission.setShards(shards), TIMEOUT_MS);
    if (agreed !== shards) agreed = await change(backend, shards, agreed);
    assertAgreed(shards, agreed);
  } catch (error) {
    if (error instanceof ShardsError) {
      await backend.close();
      throw error;
    }
    onError(error as Error);
  }
  return {
    differs: () => agreed !== undefined && agreed !== shards,
    async check() {
      const failure: Error | void = await ask().catch((error) => error);
      if (agreed === undefined) return `number of shards is not known: ${failure?.message}`;
      assertAgreed(shards, agreed);
    },
  };
}

/** The store's own check, and this one. */
export async function checkWithShards(backend: QueueBackend, { check }: ShardCheck): Promise<string | void> {
  const words = await Promise.all([backend.check(), check()]);
  return words.filter(Boolean).join('; ') || undefined;
}

/** @returns how many there are then */
function change(backend: QueueBackend, shards: number, agreed: number): Promise<number> {
  const changing = async () => ((await isIdle(backend, agreed)) ? backend.admission.setShards(shards, agreed) : agreed);
  return withTimeout(changing(), CHANGE_TIMEOUT_MS).catch(() => agreed);
}

/** For read-only processes, which do not choose the number; a store that does not answer is ignored. @throws ShardsError */
export async function checkShards({ admission }: QueueBackend, shards: number): Promise<void> {
  const agreed = await withTimeout(admission.readShards(), LOOK_TIMEOUT_MS).catch(() => undefined);
  assertAgreed(shards, agreed ?? shards);
}

function assertAgreed(shards: number, agreed: number): void {
  if (agreed === shards) return;
  throw new ShardsError(
    `QUEUE_SHARDS is ${shards}, but the queue has ${agreed}: that can only be changed while nothing waits and no worker runs`,
  );
}

async function isIdle(backend: QueueBackend, shards: number): Promise<boolean> {
  const counts = toAddresses(shards).map(async (address) => {
    const queue = await backend.openQueue(address, { skipMetasUpdate: true });
    const [jobs, workers] = await Promise.all([countUndone(queue), queue.getWorkersCount()]);
    await queue.close(); // it has connections of its own where it is in PostgreSQL
    return jobs + workers;
  });
  return (await Promise.all(counts)).every((count) => count === 0);
}
