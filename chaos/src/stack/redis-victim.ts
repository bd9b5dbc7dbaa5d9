import { isRunning, type LocalRedis, startLocalRedis, withRedis } from '@opm/testkit';
import type { HostShim } from './host-shim.js';
import type { StoreHost } from './victim.js';

export type RedisVictim = StoreHost & { readonly url: string };

/** Whatever it has answered is on disk. */
export const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always'];

/** A durable Redis in that directory, started. */
export async function startRedisVictim(directory: string, shim: HostShim): Promise<RedisVictim> {
  const start = (port?: number) =>
    startLocalRedis({ directory, flags: DURABLE, env: shim.env, detached: true, ...(port !== undefined && { port }) });
  let redis: LocalRedis | undefined = await start();
  const { url, port } = redis;
  const signalIt = async (signal: NodeJS.Signals) => {
    if (redis) process.kill(redis.pid, signal);
  };
  return {
    name: 'Redis',
    url,
    shim,
    async start() {
      if (redis && !(await isRunning(redis.pid))) redis = undefined;
      redis ??= await start(port);
    },
    async end(signal) {
      const ended = redis;
      redis = undefined;
      await ended?.stop(signal);
    },
    answers: () => withRedis(url, (client) => client.ping()).then(() => true),
    freeze: () => signalIt('SIGSTOP'),
    thaw: () => signalIt('SIGCONT'),
  };
}
