import { once } from 'node:events';
import { Cluster, type ClusterOptions, Command, Redis, type RedisOptions } from 'ioredis';
import type { Role } from '../queue-store.js';
import { applyIoredisWorkarounds, type RedisClient } from './ioredis-workarounds.js';

export type RedisConnection = {
  /** URL of one Redis, or URLs of several cluster nodes, separated by commas. */
  redisUrl: string;
  role: Role;
  /** Replicas that must confirm a producer's write; 0 if the master alone suffices. */
  minReplicas: number;
  /** Timeout of a producer's calls, in ms. */
  answerTimeoutMs: number;
  onError: (error: Error) => void;
};

/** A connection that breaks silently looks open. `socketTimeout` closes it if an answer takes that long. */
const OPTIONS: Record<Role, (answerTimeoutMs: number) => RedisOptions> = {
  producer: (answerTimeoutMs) => ({
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: answerTimeoutMs,
    commandTimeout: answerTimeoutMs,
    socketTimeout: 1.5 * answerTimeoutMs,
  }),
  // BullMQ waits for jobs with calls that block for at most 10 s.
  worker: () => ({ maxRetriesPerRequest: null, socketTimeout: 30_000 }),
  dashboard: () => ({ maxRetriesPerRequest: 1, commandTimeout: 10_000, socketTimeout: 10_000 }),
};

const CLUSTER_OPTIONS: Record<Role, ClusterOptions> = {
  // A command sent before the connection broke may have run. The partner decides whether to repeat the request.
  producer: { enableOfflineQueue: false, retryDelayOnFailover: 0 },
  worker: { maxRedirections: Number.POSITIVE_INFINITY, retryDelayOnMoved: 50 },
  dashboard: {},
};

const READY_TIMEOUT_MS = 2_000;
/** The maximum age of the cluster's slot map. A failover does not notify clients. */
const REFRESH_INTERVAL_MS = 5_000;

/** Connects in the background, and reconnects if the connection is lost. */
export function connectRedis(connection: RedisConnection): RedisClient {
  const { redisUrl, role, minReplicas, answerTimeoutMs, onError } = connection;
  const urls = redisUrl.split(',');
  const options = OPTIONS[role](answerTimeoutMs);
  const prepare = (node: Redis) =>
    confirmWrites(joinWrites(node), role === 'producer' ? minReplicas : 0, Math.ceil(answerTimeoutMs / 2));
  const redis =
    urls.length > 1
      ? connectCluster(urls, role, options).on('+node', prepare).on('node error', onError)
      : prepare(new Redis(redisUrl, { ...options, retryStrategy: toRetryDelay }));
  return applyIoredisWorkarounds(redis).on('error', onError);
}

function connectCluster(urls: string[], role: Role, options: RedisOptions): Cluster {
  return new Cluster(urls, {
    redisOptions: { ...options, ...toCredentials(urls[0] as string) },
    ...CLUSTER_OPTIONS[role],
    clusterRetryStrategy: toRetryDelay,
    slotsRefreshInterval: REFRESH_INTERVAL_MS,
    // Keep host names unresolved: TLS certificates contain names, not addresses.
    dnsLookup: (address, callback) => callback(null, address),
  });
}

const toRetryDelay = (attempt: number) => Math.min(50 * 2 ** attempt, 2_000) * (0.5 + Math.random() / 2);

/** Credentials and TLS from the first URL, also for cluster nodes that are not among the URLs. */
function toCredentials(url: string): RedisOptions {
  const { protocol, username, password } = new URL(url);
  return {
    ...(username && { username: decodeURIComponent(username) }),
    ...(password && { password: decodeURIComponent(password) }),
    ...(protocol === 'rediss:' && { tls: {} }),
  };
}

/** The nodes that own data: the single Redis, or the cluster's masters. */
export const mastersOf = (redis: RedisClient): Redis[] => (redis instanceof Cluster ? redis.nodes('master') : [redis]);

/** @throws Error if the connection fails or is not ready within 2 s */
export async function waitUntilReady(redis: RedisClient): Promise<void> {
  if (redis.status === 'ready') return;
  const signal = AbortSignal.timeout(READY_TIMEOUT_MS);
  await once(redis, 'ready', { signal }).catch((cause) => {
    throw signal.aborted ? new Error(`Redis is not ready after ${READY_TIMEOUT_MS} ms`, { cause }) : cause;
  });
}

type Argument = string | number | (string | number)[];

/**
 * A Lua script. Arguments may be arrays, which ioredis flattens: an array may be too long for a JavaScript call to
 * spread.
 */
export type Script<Answer> = (keys: string[], ...args: Argument[]) => Promise<Answer>;

/**
 * Adds the scripts to the client as commands.
 * @param lua the text of each script
 * @returns a function for each script
 */
export function defineScripts<Scripts extends Record<keyof Scripts, Script<unknown>>>(
  redis: RedisClient,
  lua: Record<keyof Scripts, string>,
): Scripts {
  const define = (name: string, text: string) => {
    redis.defineCommand(name, { lua: text });
    const command = Reflect.get(redis, name).bind(redis);
    return (keys: string[], ...args: Argument[]) => command(keys.length, keys, ...args);
  };
  return Object.fromEntries(Object.entries<string>(lua).map(([name, text]) => [name, define(name, text)])) as Scripts;
}

/**
 * Writes the commands of one turn of the event loop with one system call; ioredis uses one for each. With several
 * shards, a turn often has several commands.
 */
function joinWrites(redis: Redis): Redis {
  const sendCommand = redis.sendCommand.bind(redis);
  redis.sendCommand = (...call) => {
    const { stream } = redis;
    if (stream?.writableCorked === 0) {
      stream.cork();
      process.nextTick(() => stream.uncork());
    }
    return sendCommand(...call);
  };
  return redis;
}

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
function confirmWrites(redis: Redis, minReplicas: number, timeoutMs: number): Redis {
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

  /** Sends `WAIT` without a timeout on the client side, which would not unblock the connection. */
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
