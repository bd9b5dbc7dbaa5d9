import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { shardOf, toHashTag } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import {
  type Backend,
  type ClusterNode,
  createBackend,
  type RedisCluster,
  runOpm,
  startApp,
  startRedisCluster,
  type TestApp,
  testPrefix,
  waitFor,
  withRedis,
} from '@opm/testkit';
import pMap from 'p-map';
import { PASSWORD, withLogin, writeUsers } from './set-up-roles.js';

const SHARDS = 6;
const CLIENTS = 12;
/** Short enough that a test can wait until a call to a silent master times out. */
const ANSWER_TIMEOUT_MS = '10000';
/** Pause of a client between two entries: moderate load, not the maximum. */
const PAUSE_MS = 25;

let directory: string;
let cluster: RedisCluster;
let backend: Backend;
let store: Store;
let name: string;
let projectId: number;
let apiKey: string;
let apps: TestApp[];
let stopLoad = async () => {};

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-cluster-'));
  // The processes have the users of deploy/redis/users.acl, the replicas `replication`, and this test the default user.
  const users = await writeUsers(directory, 'opm_test_*', 'user default on nopass');
  const flags = ['--appendonly', 'yes', ...users, '--masteruser', 'replication', '--masterauth', PASSWORD];
  cluster = await startRedisCluster({ directory, masters: 3, replicasPerMaster: 1, flags });
  backend = await createBackend(cluster.url);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
});
beforeEach(async () => {
  apps = [];
  name = `partner-${testPrefix()}`;
  ({ apiKey, projectId } = await store.projects.create(name));
});
afterEach(async () => {
  await stopLoad();
  await Promise.all(apps.map((app) => app.stop()));
  for (const node of cluster.nodes) {
    await node.start();
    node.signal('SIGCONT');
  }
  await cluster.waitUntilWhole();
  for (const { url } of cluster.nodes) {
    expect(await withRedis(url, (node) => node.call('ACL', 'LOG'))).toEqual([]); // no command was refused
  }
});
afterAll(async () => {
  await store?.close();
  await backend?.drop();
  await cluster?.stop();
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

const withUser = (user: string, env: NodeJS.ProcessEnv) => ({
  ...env,
  REDIS_URL: cluster.url
    .split(',')
    .map((url) => withLogin(url, user))
    .join(','),
});

/** @param env for both processes */
async function start(env: NodeJS.ProcessEnv = {}): Promise<{ ingress: TestApp; worker: TestApp }> {
  const all = { ...backend.env, QUEUE_SHARDS: String(SHARDS), ANSWER_TIMEOUT_MS, ...env };
  const [ingress, worker] = await Promise.all([
    startApp('ingress', withUser('ingress', all)),
    startApp('worker', withUser('worker', all)),
  ]);
  apps.push(ingress, worker);
  return { ingress, worker };
}

async function post(ingress: TestApp, customerId: string, customerEmail = 'jane@example.com'): Promise<number> {
  const body = JSON.stringify({ customerId, customerEmail });
  const response = await fetch(`${ingress.url}/entry`, { method: 'POST', body, headers: { 'x-api-key': apiKey } });
  await response.text();
  return response.status;
}

/** 201, or 202 if PostgreSQL answers the look-up too late. */
const isAccepted = async (...call: Parameters<typeof post>) => [201, 202].includes(await post(...call));

const createIds = (count: number) => Array.from({ length: count }, (_, i) => `customer ${i}`);
const shardOfCustomer = (customerId: string) => shardOf(projectId, customerId, SHARDS);
const masterOfShard = (shard: number) => cluster.findMaster(toHashTag(backend.prefix, shard, SHARDS));
const masterOf = (customerId: string) => masterOfShard(shardOfCustomer(customerId));

async function expectRows(customerIds: string[]): Promise<void> {
  const isStored = async (customerId: string) => (await store.customers.find(projectId, customerId)) !== undefined;
  for (const customerId of customerIds) {
    await waitFor(() => isStored(customerId), { description: `the row of ${customerId}` });
  }
}

/** Posts new customers over several connections until `stopLoad`. */
function startLoad(ingress: TestApp, name: string) {
  const answers = new Map<string, number | undefined>();
  let isOver = false;
  const client = async (client: number) => {
    for (let n = 0; !isOver; n++, await delay(PAUSE_MS)) {
      const customerId = `${name} ${client} ${n}`;
      answers.set(customerId, await post(ingress, customerId).catch(() => undefined));
    }
  };
  const clients = Promise.all(Array.from({ length: CLIENTS }, (_, i) => client(i)));
  const withStatus = (...statuses: number[]) =>
    [...answers].filter(([, status]) => status && statuses.includes(status)).map(([customerId]) => customerId);
  stopLoad = async () => {
    isOver = true;
    await clients;
  };
  return { acknowledged: () => withStatus(201, 202), refused: () => withStatus(503) };
}

test('each of three masters has two of six shards, and acknowledged entries become rows', async () => {
  const { ingress } = await start();
  const ids = createIds(200);
  const postAll = () => pMap(ids, (id) => post(ingress, id), { concurrency: CLIENTS });
  const firsts = await postAll();
  expect(firsts).toContain(201);
  expect(firsts.filter((status) => status !== 201 && status !== 202)).toEqual([]);
  expect(new Set(await postAll())).toEqual(new Set([202]));
  await expectRows(ids);
  const masters = await Promise.all(Array.from({ length: SHARDS }, (_, shard) => masterOfShard(shard)));
  const shares = cluster.nodes.map((node) => masters.filter((master) => master === node).length);
  expect(shares.filter((shards) => shards > 0)).toEqual([2, 2, 2]);
});

test('the command line and the Bull dashboard work on the cluster', async () => {
  const env = { ...backend.env, QUEUE_SHARDS: String(SHARDS) };
  await start();
  const file = join(directory, 'customers.ndjson');
  const ids = createIds(20);
  await writeFile(file, ids.map((customerId) => JSON.stringify({ customerId, customerPhone: '1' })).join('\n'));
  const imported = await runOpm(['customers', 'import', file, '--project', name], withUser('opm', env));
  expect(imported).toMatchObject({ code: 0 });
  await expectRows(ids);
  const console = await startApp('console', { ...withUser('console', env), CONSOLE_PASSWORD: 'open sesame' });
  apps.push(console);
  const headers = { authorization: `Basic ${btoa('me:open sesame')}` };
  const answer = await (await fetch(`${console.url}/queues/api/queues`, { headers })).json();
  const { queues } = answer as { queues: { name: string }[] };
  expect(queues.map((queue) => queue.name)).toContain(`entries-${SHARDS - 1}`);
});

test('a master is killed under load: no acknowledged entry is lost, and the other masters keep working', async () => {
  const { ingress, worker } = await start({ REDIS_MIN_REPLICAS: '1' });
  const load = startLoad(ingress, 'failover');
  await waitFor(() => load.acknowledged().length > 100, { description: 'some load' });
  const victim = (await masterOf('failover 0 0')) as ClusterNode;
  await victim.kill();
  const before = load.acknowledged().length;
  await waitFor(() => load.refused().length > 0, { description: 'an entry for the dead master' });
  await waitFor(() => load.acknowledged().length > before + 100, { description: 'the others' });
  const isPromoted = async () => ![undefined, victim].includes(await masterOf('failover 0 0'));
  await waitFor(isPromoted, { description: 'a replica to be promoted' });
  expect(await post(ingress, 'failover 0 0')).toBe(503); // The new master has no replica yet.
  await victim.start();
  const isAccepted = async () => (await post(ingress, 'failover 0 0')) === 202;
  await waitFor(isAccepted, { description: 'the shard to be back' });
  const afterwards = load.acknowledged().length;
  await waitFor(() => load.acknowledged().length > afterwards + 100, { description: 'load afterwards' });
  await stopLoad();
  await expectRows(load.acknowledged());
  expect(await worker.readMetric('opm_retries_total{reason="error"}')).toBe(0);
});

test('a master and its replica are down: the other shards keep working, also for processes that start meanwhile', async () => {
  const { worker } = await start();
  const lost = (await masterOf('jane')) as ClusterNode;
  const [replica] = await cluster.findReplicas(lost);
  await Promise.all([lost.kill(), replica?.kill()]);
  const [witness] = cluster.nodes.filter((node) => node.isRunning()) as [ClusterNode];
  const isGivenUp = async () => {
    const nodes = String(await withRedis(witness.url, (redis) => redis.cluster('NODES'))).split('\n');
    return nodes.some((node) => node.includes(`:${lost.port}@`) && /\bmaster,fail\b/.test(node));
  };
  await waitFor(isGivenUp, { description: 'the others to hold the master for dead' });

  const { ingress } = await start({ BACKLOG_MAX_ENTRIES: '50' });
  const isServed = async (id: string) => (await masterOf(id)) !== undefined;
  const ids = createIds(60);
  const served = (await pMap(ids, async (id) => ((await isServed(id)) ? [id] : []))).flat();
  for (const id of served) expect(await isAccepted(ingress, id)).toBe(true);
  await expectRows(served);
  expect(await post(ingress, 'jane')).toBe(503);

  await Promise.all(apps.filter((app) => app !== ingress).map((app) => app.stop()));
  expect(worker.output()).not.toContain('"level":"error"');
  let next = 0;
  const postAnother = () => post(ingress, served[next++ % served.length] as string);
  await waitFor(async () => (await postAnother()) === 503, { description: 'the limit of the backlog' });
  expect(await ingress.readMetric('opm_shed_total{reason="backlog"}')).toBeGreaterThan(0);
});

test('a master is silent: its shard continues on the replica although connections to the master stay open', async () => {
  const { ingress, worker } = await start();
  const ids = createIds(100);
  const shard = shardOfCustomer('jane');
  const [first, ...others] = ids.filter((id) => shardOfCustomer(id) === shard) as [string, ...string[]];
  expect(await isAccepted(ingress, first)).toBe(true);
  await expectRows([first]);
  const victim = (await masterOf('jane')) as ClusterNode;
  victim.signal('SIGSTOP');
  const isPromoted = async () => ![undefined, victim].includes(await masterOf('jane'));
  await waitFor(isPromoted, { description: 'a replica to be promoted' });
  for (const id of others) {
    await waitFor(() => isAccepted(ingress, id), { description: `${id} to be accepted` });
  }
  await expectRows(others);
  expect(await worker.stop()).toEqual({ code: 0, signal: null });
});

test.each(['worker', 'console'] as const)(
  'a %s stays ready and reports it while a master and its replica are silent',
  async (name) => {
    const port = await findFreePort();
    const env = {
      ...backend.env,
      QUEUE_SHARDS: String(SHARDS),
      INTERNAL_PORT: String(port),
      CONSOLE_PASSWORD: 'a-password-for-tests',
    };
    apps.push(await startApp(name, withUser(name, env)));
    const askReady = async () => {
      const response = await fetch(`http://127.0.0.1:${port}/readyz`);
      return { status: response.status, text: await response.text() };
    };
    await waitFor(async () => (await askReady()).status === 200, { description: `the ${name} to be ready` });
    // The master of this key holds the number of shards.
    const lost = (await cluster.findMaster(`{${backend.prefix}-0}`)) as ClusterNode;
    const [replica] = await cluster.findReplicas(lost);
    for (const node of [lost, replica]) node?.signal('SIGSTOP');
    const statuses = new Set<number>();
    const isNoticed = async () => {
      const { status, text } = await askReady();
      statuses.add(status);
      return text.includes('1 of 3 masters do not answer');
    };
    await waitFor(isNoticed, { description: 'a word on it' });
    expect([...statuses]).toEqual([200]);
  },
);

describe.each([
  { minReplicas: '0', answer: 202, fate: 'is lost if that replica is promoted', email: 'old@example.com' },
  { minReplicas: '1', answer: 503, fate: 'must be sent again by its partner', email: 'again@example.com' },
])(
  'an entry that no replica has yet, with REDIS_MIN_REPLICAS=$minReplicas,',
  ({ minReplicas, answer, fate, email }) => {
    test(`is answered with ${answer} and ${fate}`, async () => {
      const { ingress, worker } = await start({ REDIS_MIN_REPLICAS: minReplicas });
      expect(await isAccepted(ingress, 'jane', 'old@example.com')).toBe(true);
      await expectRows(['jane']);
      expect(await worker.stop()).toEqual({ code: 0, signal: null });

      const master = (await masterOf('jane')) as ClusterNode;
      const [replica] = await cluster.findReplicas(master);
      replica?.signal('SIGSTOP');
      await withRedis(master.url, (redis) => redis.call('CLIENT', 'KILL', 'TYPE', 'replica'));
      expect(await post(ingress, 'jane', 'new@example.com')).toBe(answer);
      await master.kill();
      replica?.signal('SIGCONT');
      const isPromoted = async () => (await masterOf('jane')) === replica;
      await waitFor(isPromoted, { description: 'the replica to be promoted' });

      if (answer === 503) {
        await master.start(); // It returns as a replica of its former replica.
        const isAccepted = async () => (await post(ingress, 'jane', 'again@example.com')) === 202;
        await waitFor(isAccepted, { description: 'the promoted replica' });
      }
      await start();
      const after = createIds(200).find((id) => shardOfCustomer(id) === shardOfCustomer('jane')) as string;
      await waitFor(() => isAccepted(ingress, after), { description: 'an entry of the same shard' });
      await expectRows([after]);
      const readEmail = async () => (await store.customers.find(projectId, 'jane'))?.email;
      await waitFor(async () => (await readEmail()) === email, { description: `the email ${email}` });
    });
  },
);
