import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { startProxy, type TcpProxy, testPrefix, waitFor } from '@opm/testkit';
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { applyIoredisWorkarounds } from '../src/redis/ioredis-workarounds.js';

const NEVER_MS = 2 ** 30;

let proxy: TcpProxy;
let redis: Redis;
beforeEach(async () => {
  proxy = await startProxy(process.env.OPM_TEST_REDIS_URL as string);
  redis = applyIoredisWorkarounds(new Redis(proxy.url, { maxRetriesPerRequest: null, retryStrategy: () => NEVER_MS }));
  redis.on('error', () => {});
  await redis.ping();
});
afterEach(() => proxy.close());

/** Cuts the connections, and waits until each one waits for its next attempt. */
async function loseStore(...connections: Redis[]): Promise<void> {
  await proxy.cut();
  const isWaiting = () => connections.every(({ status }) => status === 'reconnecting');
  await waitFor(isWaiting, { description: 'the loss to be noticed' });
}

test('a connection that waits for its next attempt can be ended, and the calls that wait for it reject', async () => {
  await loseStore(redis);
  const call = expect(redis.ping()).rejects.toThrow('Connection is closed');
  const end = new Promise((resolve) => {
    redis.once('end', resolve);
  });
  redis.disconnect();
  await end;
  await call;
  expect(redis.status).toBe('end');
});

test('a worker whose connections wait for their next attempts can be closed', async () => {
  const connections = [redis];
  const { duplicate } = redis;
  redis.duplicate = ((...override: []) => {
    connections.push(duplicate.call(redis, ...override) as Redis);
    return connections.at(-1);
  }) as typeof duplicate;
  const worker = new Worker('jobs', async () => {}, { connection: redis, prefix: testPrefix() });
  worker.on('error', () => {});
  await worker.waitUntilReady();
  expect(connections).toHaveLength(2); // the second one waits for jobs
  await loseStore(...connections);
  await worker.close();
  redis.disconnect();
});
