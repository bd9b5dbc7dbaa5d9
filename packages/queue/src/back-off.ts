import { setTimeout as delay } from 'node:timers/promises';
import { type BackendFactory, type IQueueBackend, isNotConnectionError } from 'bullmq';
import { RECONNECT_DELAY_MS } from './retry-policy.js';

/**
 * A worker whose store refuses to give it a job waits before it asks again. BullMQ (6.7) does so only if there is no connection;
 * a store that is there and takes no writes, for want of a replica or of disk, it would ask a thousand times a second.
 */
export function withBackOff<Backend extends IQueueBackend, Connection>(
  createBackend: BackendFactory<Backend, Connection>,
): BackendFactory<Backend, Connection> {
  return (...args) => {
    const backend = createBackend(...args);
    const ask = backend.moveToActive.bind(backend);
    const moveToActive: typeof ask = async (...call) => {
      try {
        return await ask(...call);
      } catch (error) {
        if (isNotConnectionError(error as Error)) await delay(RECONNECT_DELAY_MS);
        throw error;
      }
    };
    return Object.assign(backend, { moveToActive });
  };
}
