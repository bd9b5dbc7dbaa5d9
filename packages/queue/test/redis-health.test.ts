import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { startLocalRedis, withRedis } from '@opm/testkit';
import { connectQueueBackend } from '../src/queue-backend.js';

const options = { signal: new AbortController().signal, onError: () => {} };

test('a Redis that keeps nothing on disk causes a warning, and stays ready', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'opm-health-'));
  const redis = await startLocalRedis({ directory, flags: ['--appendonly', 'no'] });
  const config = { databaseUrl: '', redisUrl: redis.url, prefix: 'opm', shards: 1 };
  const { check, close } = await connectQueueBackend(config, 'producer', options);
  const set = (name: string, value: string) => withRedis(redis.url, (client) => client.config('SET', name, value));

  expect(await check()).toBe(
    'Redis keeps nothing on disk (neither appendonly nor save is set): a restart loses acknowledged entries',
  );
  await set('save', '3600 1');
  expect(await check()).toBeUndefined();
  await set('save', '');
  await set('appendonly', 'yes');
  expect(await check()).toBeUndefined();

  await set('appendonly', 'no');
  await withRedis(redis.url, (client) =>
    client.call('ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', '-config'),
  );
  const redisUrl = redis.url.replace('redis://', 'redis://app:pw@');
  const hosted = await connectQueueBackend({ ...config, redisUrl }, 'producer', options);
  expect(await hosted.check()).toBeUndefined(); // CONFIG GET is not allowed

  await Promise.all([close(), hosted.close()]);
  await redis.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});
