import { type LocalRedis, startLocalRedis } from '@opm/testkit';
import type { Victim } from './victim.js';

export type RedisVictim = Victim & { readonly url: string };

/** Whatever it has answered is on disk. */
export const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always'];

/** A durable Redis in that directory, started. */
export async function startRedisVictim(directory: string): Promise<RedisVictim> {
  const start = (port?: number) =>
    startLocalRedis({ directory, flags: DURABLE, detached: true, ...(port !== undefined && { port }) });
  let redis: LocalRedis | undefined = await start();
  const { url, port } = redis;
  const signalIt = async (signal: NodeJS.Signals) => {
    if (redis) process.kill(redis.pid, signal);
  };
  return {
    name: 'Redis',
    url,
    async start() {
      redis ??= await start(port);
    },
    async end(signal) {
      const ended = redis;
      redis = undefined;
      await ended?.stop(signal);
    },
    freeze: () => signalIt('SIGSTOP'),
    thaw: () => signalIt('SIGCONT'),
  };
}
