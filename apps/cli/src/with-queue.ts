import { Fault } from '@opm/contract';
import { createEntryQueue, type EntryQueue, ShardsError, toQueueConfig } from '@opm/queue';
import { ConfigError, parseEnv, STORE_ENV } from '@opm/runtime';
import { assertWorked } from './assert-worked.js';
import { UserError } from './user-error.js';
import { findStores } from './with-store.js';

/** Where nobody listens there, or refuses the connection. */
const CONNECT_TIMEOUT_MS = 5_000;
/** Where it is there and says nothing, it may only stand still for a moment. */
const ANSWER_TIMEOUT_MS = 30_000;

/** `force`: also where no worker takes jobs. */
export type QueueFlags = { force?: true };

/**
 * Opens the entry queue, with the variables of the ingress, for one command. `shards` is the number of its queues.
 * @throws UserError where nobody takes what is queued
 */
export async function withQueue<T>(
  env: NodeJS.ProcessEnv,
  { force }: QueueFlags,
  use: (queue: EntryQueue, shards: number) => Promise<T>,
): Promise<T> {
  const config = readConfig(await findStores(env));
  const queue = await openQueue(config);
  try {
    if (!force) await assertWorked(queue);
    return await use(queue, config.shards);
  } catch (error) {
    if (error instanceof Fault) throw new UserError(toOperatorText(error));
    throw error;
  } finally {
    await queue.close();
  }
}

/** What the fault says is meant for a partner; an operator can use its cause. */
export function toOperatorText({ cause }: Fault): string {
  return `the queue does not answer: ${(cause as Error).message}`;
}

function readConfig(env: NodeJS.ProcessEnv) {
  try {
    return toQueueConfig(parseEnv(env, STORE_ENV));
  } catch (error) {
    if (error instanceof ConfigError) throw new UserError(error.message);
    throw error;
  }
}

async function openQueue(config: ReturnType<typeof toQueueConfig>): Promise<EntryQueue> {
  let reason = 'it does not answer';
  let isSilent = true;
  const stop = new AbortController();
  const timers = [
    setTimeout(() => isSilent || stop.abort(), CONNECT_TIMEOUT_MS),
    setTimeout(() => stop.abort(), ANSWER_TIMEOUT_MS),
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
    if (signal.aborted) throw new UserError(`the queue cannot be reached: ${reason}`);
    throw error;
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
}
