import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { startLocalRedis, withRedis } from '@opm/testkit';
import { connectQueueBackend } from '../src/queue-backend.js';

const options = { signal: new AbortController().signal, onError: () => {} };

test('a Redis without an append-only file causes a warning, and stays ready', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'opm-health-'));
  const redis = await startLocalRedis({ directory, flags: ['--appendonly', 'no'] });
  const config = { databaseUrl: '', redisUrl: redis.url, prefix: 'opm', shards: 1 };
  const { check, close } = await connectQueueBackend(config, 'producer', options);
  const set = (name: string, value: string) => withRedis(redis.url, (client) => client.config('SET', name, value));

  const warning = 'Redis has no append-only file (appendonly is off): a crash loses acknowledged entries';
  expect(await check()).toBe(warning);
  await set('save', '3600 1');
  expect(await check()).toBe(warning);
  await set('appendonly', 'yes');
  expect(await check()).toBeUndefined();

  await close();
  await redis.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});
