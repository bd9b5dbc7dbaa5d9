import { createRedisBackend } from 'bullmq';

/**
 * BullMQ's backend, without a detour: BullMQ (6.7) asks whether the reply to a finished job is less than 0, and where the reply
 * is the next job, an array, JavaScript writes all of its data out as one text to find that it is no number. That was a sixth
 * of what a worker allocated.
 */
export const createWorkerBackend: typeof createRedisBackend = (...args) => {
  const backend = createRedisBackend(...args);
  const execCommand = backend.execCommand.bind(backend);
  backend.execCommand = (client, name, commandArgs) => {
    const reply = execCommand(client, name, commandArgs);
    return name === 'moveToFinished' ? reply.then(toComparable) : reply;
  };
  return backend;
};

function toComparable(reply: unknown): unknown {
  return Array.isArray(reply) ? Object.assign(reply, { [Symbol.toPrimitive]: () => Number.NaN }) : reply;
}
