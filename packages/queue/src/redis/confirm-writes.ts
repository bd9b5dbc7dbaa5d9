import { Command, type Redis } from 'ioredis';

const SCRIPTS = new Set(['eval', 'evalsha']);

/**
 * Makes each script resolve only after `minReplicas` replicas have confirmed its writes. Otherwise the script fails,
 * although its writes may stay.
 *
 * `WAIT` covers the writes of its own connection, so it follows the scripts on the same connection: after a failover,
 * another node would confirm writes that it never received. One `WAIT` serves all scripts of one turn of the event
 * loop.
 *
 * While replicas are missing, each `WAIT` blocks the connection for its whole timeout. Scripts behind it would run
 * long after their callers have timed out. If the oldest `WAIT` is overdue, new scripts therefore fail at once,
 * without being sent.
 *
 * https://redis.io/docs/latest/commands/wait/
 * @param timeoutMs timeout of a `WAIT`; it also delays later commands on the connection
 */
export function confirmWrites(redis: Redis, minReplicas: number, timeoutMs: number): Redis {
  if (minReplicas === 0) return redis;
  const sendCommand = redis.sendCommand.bind(redis);
  const resolvers = new WeakMap<Command, Command['resolve']>();
  let confirmation: Promise<void> | undefined;
  /** The send times of the unanswered `WAIT`s, oldest first. Redis answers them in order. */
  const unanswered: number[] = [];
  const isBlocked = () => performance.now() - (unanswered[0] ?? Number.POSITIVE_INFINITY) > timeoutMs;

  async function confirm(): Promise<void> {
    await null; // collects the other scripts of this turn
    confirmation = undefined;
    unanswered.push(performance.now());
    const replicas = await sendWait().finally(() => unanswered.shift());
    if (replicas < minReplicas) throw new Error(`only ${replicas} of ${minReplicas} replicas confirmed the write`);
  }

  /** Without a timeout on the client side, which would not unblock the connection. */
  function sendWait(): Promise<number> {
    const command = new Command('wait', [minReplicas, timeoutMs]);
    command.setTimeout = () => {};
    sendCommand(command);
    return command.promise;
  }

  redis.sendCommand = (command, stream) => {
    if (SCRIPTS.has(command.name)) {
      if (isBlocked()) {
        command.reject(new Error('replicas do not confirm writes: the command was not sent'));
        return command.promise;
      }
      confirmation ??= confirm();
      const confirmed = confirmation;
      confirmed.catch(() => {}); // if the script itself fails, nothing else handles this rejection
      // ioredis sends a redirected command again. The confirmation of the first node no longer counts then.
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
