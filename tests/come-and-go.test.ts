import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { type AppName, BACKENDS, type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';

/** Concurrent customers. */
const CLIENTS = 6;
/** Pause of a client between two customers: moderate load, not the maximum. */
const PAUSE_MS = 50;
/** Customers between two changes. */
const LIVES_BETWEEN = 15;

/** Each of a customer's first entries has one of these fields and the email. */
const FIELDS = [
  ['customerPhone', 'phone'],
  ['customerFirstName', 'firstName'],
  ['customerLastName', 'lastName'],
  ['customerIP', 'ip'],
] as const;

type Outcome = {
  created: number;
  /** Whether an answer was lost or an entry was not accepted; that entry may have been the one with the 201. */
  isUnsure: boolean;
  /** The expected row. */
  row: Record<string, string>;
};

describe.each(BACKENDS)('ingresses and workers that come and go, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let apiKey: string;
  let projectId: number;
  const started: TestApp[] = [];
  const running: Record<'ingress' | 'worker', TestApp[]> = { ingress: [], worker: [] };
  const outcomes = new Map<string, Outcome>();

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
  });
  afterAll(async () => {
    await Promise.all(started.map((app) => app.stop()));
    await store.close();
    await backend.drop();
  });

  async function add(name: Exclude<AppName, 'console'>): Promise<void> {
    // The jobs of a killed worker go to another one when their locks expire. The lock is long enough for a busy
    // machine.
    const app = await startApp(name, { ...backend.env, JOB_LOCK_MS: '5000' });
    started.push(app);
    running[name].push(app);
  }

  /** Ends the process that has run longest. Clients use an ingress until it has exited. */
  async function end(name: 'ingress' | 'worker', signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const [app] = running[name];
    const exit = await app?.stop(signal);
    running[name].shift();
    expect(exit).toEqual(signal === 'SIGTERM' ? { code: 0, signal: null } : { code: null, signal });
  }

  /** Sends the entry; returns the status, or why there is none. */
  async function post(ingress: TestApp, entry: object): Promise<number | 'unsent' | 'lost'> {
    try {
      const response = await fetch(`${ingress.url}/entry`, {
        method: 'POST',
        headers: { 'x-api-key': apiKey },
        body: JSON.stringify(entry),
      });
      await response.arrayBuffer();
      return response.status;
    } catch (error) {
      const { code } = ((error as Error).cause ?? {}) as { code?: string };
      return code === 'ECONNREFUSED' ? 'unsent' : 'lost';
    }
  }

  /** Sends the entry to one ingress after another until it is acknowledged. */
  async function send(entry: object, n: number, outcome: Outcome): Promise<201 | 202> {
    for (let turn = n; ; turn++) {
      const ingress = running.ingress[turn % running.ingress.length] as TestApp;
      const status = await post(ingress, entry);
      if (status === 201 || status === 202) return status;
      if (status !== 'unsent') outcome.isUnsure = true;
      if (typeof status === 'number' && status !== 503) throw new Error(`answered ${status}`);
    }
  }

  /** Sends the customer's first entries at once, each with another field and to another ingress; then an update. */
  async function runCustomer(customerId: string): Promise<void> {
    const row = { email: `${customerId}@example.com` };
    const outcome: Outcome = { created: 0, isUnsure: false, row };
    outcomes.set(customerId, outcome);
    const common = { customerId, customerEmail: row.email };
    const statuses = await Promise.all(
      FIELDS.map(([property], n) => send({ ...common, [property]: `${n}` }, n, outcome)),
    );
    outcome.created = statuses.filter((status) => status === 201).length;
    const update = await send({ ...common, customerLastName: 'updated' }, outcomes.size, outcome);
    expect(update).toBe(202);
    outcome.row = Object.fromEntries(FIELDS.map(([, column], n) => [column, `${n}`]));
    Object.assign(outcome.row, row, { lastName: 'updated' });
  }

  const CHANGES: (() => Promise<void>)[] = [
    () => add('ingress'),
    () => add('worker'),
    async () => void (await Promise.all([add('ingress'), add('ingress'), add('worker'), add('worker')])),
    () => end('worker', 'SIGKILL'),
    () => end('ingress', 'SIGKILL'),
    () => end('ingress', 'SIGTERM'),
    () => end('worker', 'SIGTERM'),
    async () => void (await Promise.all([add('ingress'), end('worker', 'SIGKILL'), end('ingress', 'SIGKILL')])),
    async () => void (await Promise.all([end('ingress', 'SIGTERM'), add('worker'), end('worker', 'SIGTERM')])),
  ];

  test('one to four of each, stopped or killed under load: each entry is in its row, each customer is created once', async () => {
    await Promise.all([add('ingress'), add('worker')]);
    let lives = 0;
    let isOver = false;
    const client = async () => {
      for (; !isOver; await delay(PAUSE_MS)) await runCustomer(`customer ${lives++}`);
    };
    const clients = Array.from({ length: CLIENTS }, client);
    const change = async () => {
      for (const make of CHANGES) {
        const due = lives + LIVES_BETWEEN;
        await waitFor(() => lives >= due, { description: 'some load' });
        await make();
      }
    };
    await change().finally(() => {
      isOver = true;
    });
    await Promise.all(clients);

    const all = [...outcomes];
    const sure = all.filter(([, { isUnsure }]) => !isUnsure);
    expect(sure.length).toBeGreaterThan(all.length / 2);
    expect(all.filter(([, { created }]) => created > 1)).toEqual([]);
    // If PostgreSQL answers an ingress too late, on a busy machine, the ingress logs it and answers 202 instead of 201.
    const isLate = started.some(({ output }) => /PostgreSQL (does not answer|look-up failed)/.test(output()));
    if (!isLate) expect(sure.filter(([, { created }]) => created === 0)).toEqual([]);
    for (const [customerId, { row }] of all) {
      const isStored = async () => {
        const stored = await store.customers.find(projectId, customerId);
        expect(stored).toMatchObject(row);
        return true;
      };
      await waitFor(isStored, { description: `the row of ${customerId}` });
    }
    expect(await store.deadLetters.count({})).toEqual([]);
  });
});
