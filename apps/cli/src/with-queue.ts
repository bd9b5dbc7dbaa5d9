import { Fault } from '@opm/contract';
import { createEntryQueue, type EntryQueue, toQueueConfig } from '@opm/queue';
import { ConfigError, parseEnv, STORE_ENV } from '@opm/runtime';
import { UserError } from './user-error.js';
import { findStores } from './with-store.js';

const CONNECT_TIMEOUT_MS = 5_000;

/** Opens the entry queue, with the variables of the ingress, for one command. `shards` is the number of its queues. */
export async function withQueue<T>(
  env: NodeJS.ProcessEnv,
  use: (queue: EntryQueue, shards: number) => Promise<T>,
): Promise<T> {
  const config = readConfig(await findStores(env));
  const queue = await openQueue(config);
  try {
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
  const onError = ({ message }: Error) => {
    if (message) reason = message;
  };
  const signal = AbortSignal.timeout(CONNECT_TIMEOUT_MS);
  try {
    return await createEntryQueue({ ...config, signal, onError });
  } catch (error) {
    if (signal.aborted) throw new UserError(`the queue cannot be reached: ${reason}`);
    throw error;
  }
}
