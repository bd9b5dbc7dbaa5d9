import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore } from '@opm/store';
import {
  BACKENDS,
  type Backend,
  createBackend,
  type Server,
  startApp,
  startProxy,
  startRedis,
  type TestApp,
  waitFor,
} from '@opm/testkit';
import { Redis } from 'ioredis';

type Answer = { status: number; retryAfter: string | null; message: string };

const TOO_MANY_WAITING: Answer = {
  status: 503,
  retryAfter: '5',
  message: 'entry was not accepted, too many are waiting, try again',
};
const TOO_MANY_AT_ONCE: Answer = {
  status: 503,
  retryAfter: '1',
  message: 'entry was not accepted, too many requests at once, try again',
};
const UNAVAILABLE: Answer = { status: 503, retryAfter: '1', message: 'entry was not accepted, try again' };
const CREATED: Answer = { status: 201, retryAfter: null, message: 'OK - Created' };

let next = 1;
const createPost =
  (ingress: TestApp, apiKey: string) =>
  async (customerId = `customer ${next++}`) => {
    const response = await fetch(`${ingress.url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey },
      body: JSON.stringify({ customerId, customerPhone: '+1' }),
    });
    const { message } = (await response.json()) as { message: string };
    return { status: response.status, retryAfter: response.headers.get('retry-after'), message };
  };

async function createProject(databaseUrl: string): Promise<string> {
  const store = createStore({ databaseUrl, applicationName: 'test' });
  const { apiKey } = await store.projects.create('acme').finally(store.close);
  return apiKey;
}

describe.each(BACKENDS)('with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let apiKey: string;

  beforeAll(async () => {
    backend = await createPlace();
    apiKey = await createProject(backend.databaseUrl);
  });
  afterAll(() => backend.drop());

  test('above the limit of the backlog nothing is accepted; below it entries are accepted again', async () => {
    const ingress = await startApp('ingress', { ...backend.env, BACKLOG_MAX_ENTRIES: '20' });
    const post = createPost(ingress, apiKey);
    for (let i = 0; i < 20; i++) expect(await post()).toEqual(CREATED);
    await waitFor(async () => (await post()).status === 503, { description: 'the limit to take effect' });
    expect(await post()).toEqual(TOO_MANY_WAITING);
    expect(await ingress.readMetric('opm_backlog_entries')).toBeGreaterThanOrEqual(20);
    expect(await ingress.readMetric('opm_shed_total{reason="backlog"}')).toBeGreaterThanOrEqual(2);

    const worker = await startApp('worker', backend.env);
    await waitFor(async () => (await post()).status === 201, { description: 'entries to be accepted again' });
    await waitFor(async () => (await ingress.readMetric('opm_backlog_entries')) === 0, { description: 'no backlog' });
    // One log line at the beginning and one at the end.
    expect(ingress.output().match(/"reason":"backlog"/g)).toHaveLength(2);
    await Promise.all([ingress.stop(), worker.stop()]);
  });

  test('above the limit of pending entries others are refused, and their retries are accepted', async () => {
    const ingress = await startApp('ingress', {
      ...backend.env,
      PENDING_MAX_ENTRIES: '2',
      CHUNKS_IN_FLIGHT: '1',
      CHUNK_MAX_ENTRIES: '1',
    });
    const post = createPost(ingress, apiKey);
    const ids = Array.from({ length: 40 }, () => `at once ${next++}`);
    const answers = await Promise.all(ids.map((id) => post(id)));
    const refused = ids.filter((_, i) => answers[i]?.status === 503);
    expect(refused.length).toBeGreaterThan(0);
    for (const answer of answers) expect([CREATED, TOO_MANY_AT_ONCE]).toContainEqual(answer);
    expect(await ingress.readMetric('opm_shed_total{reason="in-flight"}')).toBe(refused.length);
    for (const id of refused) expect(await post(id)).toEqual(CREATED);
    await ingress.stop();
  });
});

describe('with a Redis of its own:', () => {
  let redis: Server;
  let control: Redis;
  let proxy: Awaited<ReturnType<typeof startProxy>>;
  let backend: Backend;
  let ingress: TestApp;
  let apiKey: string;
  let post: ReturnType<typeof createPost>;

  beforeAll(async () => {
    redis = await startRedis();
    control = new Redis(redis.url);
    proxy = await startProxy(redis.url);
    backend = await createBackend(proxy.url);
    ingress = await startApp('ingress', backend.env);
    apiKey = await createProject(backend.databaseUrl);
    post = createPost(ingress, apiKey);
  });
  afterAll(async () => {
    await ingress.stop();
    await backend.drop();
    await proxy.close();
    control.disconnect();
    await redis.stop();
  });

  const claims = async () => {
    const hashes = await control.keys('*:claims');
    return (await Promise.all(hashes.map((hash) => control.hkeys(hash)))).flat().toSorted();
  };

  test('if Redis is out of memory an entry is a 503 and leaves no claim; later its retry is a 201', async () => {
    expect(await post()).toEqual(CREATED);
    const before = await claims();
    await control.config('SET', 'maxmemory', '1mb');
    for (let i = 0; i < 3; i++) expect(await post('refused')).toMatchObject({ status: 503 });
    expect(await claims()).toEqual(before);
    await waitFor(async () => (await post('refused')).message === TOO_MANY_WAITING.message, {
      description: 'the full memory to take effect',
    });
    expect(await ingress.readMetric('opm_redis_memory_ratio')).toBeGreaterThanOrEqual(0.9);
    await control.config('SET', 'maxmemory', '0');
    await waitFor(async () => (await post('refused')).status === 201, { description: 'the retry to be accepted' });
  });

  test('if Redis accepts the admission but not the job, the entry is a 503 and its claim is released', async () => {
    const before = await claims();
    // Replaces BullMQ's list of waiting jobs by a string: adding a job fails, but the admission does not.
    const wait = `{${backend.prefix}-0}:entries-0:wait`;
    await control.rename(wait, `${wait}:kept`);
    await control.set(wait, 'in the way');
    for (let i = 0; i < 3; i++) expect(await post('no job')).toEqual(UNAVAILABLE);
    expect(await claims()).toEqual(before);
    await control.rename(`${wait}:kept`, wait);
    expect(await post('no job')).toEqual(CREATED);
    expect(await post('no job')).toMatchObject({ status: 202 });
  });

  test('an entry that a slow Redis admits after the 503 is not queued, and the retry is a 201', async () => {
    const waiting = () => control.llen(`{${backend.prefix}-0}:entries-0:wait`);
    // The ingress gives a chunk up after 3/4 of `ANSWER_TIMEOUT_MS`, and a command after all of it.
    const impatient = await startApp('ingress', { ...backend.env, ANSWER_TIMEOUT_MS: '16000' });
    const post = createPost(impatient, apiKey);
    expect(await post()).toEqual(CREATED);
    const before = [await claims(), await waiting()];
    proxy.hold();
    expect(await post('too late')).toEqual(UNAVAILABLE);
    expect(await claims()).toContain('1:too late');
    proxy.release();
    await waitFor(async () => !(await claims()).includes('1:too late'), { description: 'the claim to be released' });
    expect([await claims(), await waiting()]).toEqual(before);
    expect(await post('too late')).toEqual(CREATED);
    await impatient.stop();
  });

  test('entries of many projects at once are all accepted in a few shared chunks', async () => {
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const projects = await Promise.all(Array.from({ length: 40 }, (_, i) => store.projects.create(`partner ${i}`)));
    await store.close();
    proxy.hold();
    const posts = projects.map(({ apiKey }) => createPost(ingress, apiKey)());
    const areUnderWay = async () => (await ingress.readMetric('opm_pending_entries')) === projects.length;
    await waitFor(areUnderWay, { description: 'an entry of each' });
    expect(await ingress.readMetric('opm_chunks_in_flight')).toBeLessThanOrEqual(4);
    proxy.release();
    for (const answer of await Promise.all(posts)) expect(answer).toEqual(CREATED);
  });

  test('while Redis hangs each request gets a 503 within ANSWER_TIMEOUT_MS; then the ingress recovers', async () => {
    const impatient = await startApp('ingress', { ...backend.env, ANSWER_TIMEOUT_MS: '1000' });
    const post = createPost(impatient, apiKey);
    await waitFor(async () => (await post()).status === 201, { description: 'the key to be cached' });
    proxy.hold();
    const answers = await Promise.all(Array.from({ length: 50 }, () => post()));
    for (const answer of answers) expect(answer).toMatchObject({ status: 503, retryAfter: '1' });
    proxy.release();
    await waitFor(async () => (await post()).status === 201, { description: 'the ingress to recover' });
    await impatient.stop();
  });

  test('while Redis is down each request gets a 503 at once; afterwards the ingress recovers', async () => {
    await proxy.cut();
    const answers = await Promise.all(Array.from({ length: 50 }, () => post()));
    for (const answer of answers) expect(answer).toEqual(UNAVAILABLE);
    await proxy.restore();
    await waitFor(async () => (await post()).status === 201, { description: 'the ingress to recover' });
  });
});
