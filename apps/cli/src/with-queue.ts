import { setTimeout as delay } from 'node:timers/promises';
import { Fault } from '@opm/contract';
import { createEntryQueue, type EntryQueue, type QueueConfig, ShardsError, toQueueConfig } from '@opm/queue';
import pRetry from 'p-retry';
import { readSettings, UserError } from './user-error.js';
import { findStores } from './with-store.js';

/** How long to retry if the queue store refuses connections. */
const CONNECT_TIMEOUT_MS = 5_000;
/** How long to wait for a queue store that accepts connections but does not answer, because it may only be paused. */
const ANSWER_TIMEOUT_MS = 30_000;

/** `force` skips the check that workers take jobs. `answerTimeoutMs`: how long to wait for a silent store. */
export type QueueFlags = { force?: true; answerTimeoutMs?: number };

/**
 * Opens the entry queue for one command. Reads the same variables as the ingress.
 * @param use gets the queue and the number of shards
 * @throws UserError if the queue is unavailable or has no workers
 */
export async function withQueue<T>(
  env: NodeJS.ProcessEnv,
  { force, answerTimeoutMs = ANSWER_TIMEOUT_MS }: QueueFlags,
  use: (queue: EntryQueue, shards: number) => Promise<T>,
): Promise<T> {
  const variables = await findStores(env);
  const config = toQueueConfig(await readSettings(({ parseEnv, STORE_ENV }) => parseEnv(variables, STORE_ENV)));
  const queue = await openQueue(config, answerTimeoutMs);
  try {
    if (!force) await assertHasWorkers(queue);
    return await use(queue, config.shards);
  } catch (error) {
    if (error instanceof Fault) throw new UserError(toOperatorText(error), 'unavailable');
    throw error;
  } finally {
    await queue.close();
  }
}

/** Workers that lose their connection reconnect well within this time. */
const IDLE_TIMEOUT_MS = 5_000;
const POLL_MS = 250;
/** Waits up to half a minute in all, so that a command survives a restart or a pause of the queue store. */
export const QUEUE_RETRIES = { retries: 10, minTimeout: 100, maxTimeout: 5_000 };

/**
 * Checks that workers take jobs from every queue. Without a worker, entries become neither rows nor dead letters.
 * @throws UserError if a queue has no worker for `timeoutMs`; Fault QUEUE_UNAVAILABLE
 */
export async function assertHasWorkers(
  queue: Pick<EntryQueue, 'findIdle'>,
  timeoutMs = IDLE_TIMEOUT_MS,
): Promise<void> {
  const findIdle = () => pRetry(() => queue.findIdle(), QUEUE_RETRIES);
  let idle = await findIdle();
  for (const startedAt = Date.now(); idle.length > 0 && Date.now() - startedAt < timeoutMs; idle = await findIdle()) {
    await delay(POLL_MS);
  }
  if (idle.length === 0) return;
  throw new UserError(
    `no worker takes jobs from ${idle.join(', ')}: start a worker, set REDIS_URL, REDIS_PREFIX and QUEUE_SHARDS ` +
      "to the workers' values, or use --force",
    'unavailable',
  );
}

/** Describes a fault to an operator by its cause. The fault's own message is for partners. */
export function toOperatorText({ cause }: Fault): string {
  return `the queue does not answer: ${(cause as Error).message}`;
}

async function openQueue(config: QueueConfig, answerTimeoutMs: number): Promise<EntryQueue> {
  let reason = 'it does not answer';
  let isSilent = true;
  const stop = new AbortController();
  const timers = [
    setTimeout(() => isSilent || stop.abort(), CONNECT_TIMEOUT_MS),
    setTimeout(() => stop.abort(), answerTimeoutMs),
  ];
  const onError = ({ message }: Error) => {
    if (!message) return;
    reason = message;
    isSilent = /timed ?out|timeout/i.test(message);
  };
  const { signal } = stop;
  try {
    return await createEntryQueue({ ...config, signal, onError });
  } catch (error) {
    if (error instanceof ShardsError) throw new UserError(error.message);
    if (signal.aborted) throw new UserError(`cannot reach the queue: ${reason}`, 'unavailable');
    throw error;
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
}
