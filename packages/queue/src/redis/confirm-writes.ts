import { Command, type Redis } from 'ioredis';

const SCRIPTS = new Set(['eval', 'evalsha']);

/**
 * Lets a script be answered only when `minReplicas` replicas have all that it has written; else it fails, though its
 * writes may stay. `WAIT` tells of the writes of its own connection, so it follows the script on the same one: after a
 * failover another node would confirm what it never had. One `WAIT` is for all scripts that were sent before it in one
 * turn of the event loop.
 *
 * While replicas are missing each `WAIT` holds the connection up for its whole time, and scripts that were sent behind it would
 * be run long after they were given up. So none is sent, and each fails at once, until the oldest `WAIT` has been answered.
 *
 * https://redis.io/docs/latest/commands/wait/
 * @param timeoutMs of a `WAIT`: what comes after it on the same connection waits, too
 */
export function confirmWrites(redis: Redis, minReplicas: number, timeoutMs: number): Redis {
  if (minReplicas === 0) return redis;
  const sendCommand = redis.sendCommand.bind(redis);
  const resolvers = new WeakMap<Command, Command['resolve']>();
  let confirmation: Promise<void> | undefined;
  /** When each `WAIT` was sent that has no answer yet, the oldest first: they are answered in order. */
  const unanswered: number[] = [];
  const isHeldUp = () => performance.now() - (unanswered[0] ?? Number.POSITIVE_INFINITY) > timeoutMs;

  async function confirm(): Promise<void> {
    await null; // for the others of this turn
    confirmation = undefined;
    unanswered.push(performance.now());
    const replicas = await sendWait().finally(() => unanswered.shift());
    if (replicas < minReplicas) throw new Error(`only ${replicas} of ${minReplicas} replicas have it`);
  }

  /** Without a time-out on this side, which would not take it off the connection. */
  function sendWait(): Promise<number> {
    const command = new Command('wait', [minReplicas, timeoutMs]);
    command.setTimeout = () => {};
    sendCommand(command);
    return command.promise;
  }

  redis.sendCommand = (command, stream) => {
    if (SCRIPTS.has(command.name)) {
      if (isHeldUp()) {
        command.reject(new Error('replicas do not confirm'));
        return command.promise;
      }
      confirmation ??= confirm();
      const confirmed = confirmation;
      confirmed.catch(() => {}); // where the script itself fails, nobody else listens
      // A cluster sends a command again that was redirected: what the other node said of its writes counts no more.
      const resolve = resolvers.get(command) ?? command.resolve;
      resolvers.set(command, resolve);
      command.resolve = (answer) => {
        confirmed.then(() => void resolve.call(command, answer), command.reject);
      };
    }
    return sendCommand(command, stream);
  };
  return redis;
}
