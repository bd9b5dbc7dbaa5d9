import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type CustomerEntry, type CustomerState, FIELDS, foldEntries } from '@opm/core';
import { type Replayed, replay } from '@opm/operations/actions';
import { type Chunk, createEntryQueue, type DashboardQueues, type EntryQueue, openDashboardQueues } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { search } from './search.js';

/**
 * The expected content of PostgreSQL when the queue is drained: the merged entries, and dead letters of rejected ones.
 */
type Model = {
  isRefusing: boolean;
  chunks: Chunk[];
  merged: Map<string, CustomerEntry>;
  letters: Map<string, CustomerEntry>;
};
type Command = fc.AsyncCommand<Model, Project>;

const keyOf = ({ customerId, version }: CustomerEntry) => `${customerId} ${version}`;
const isRefused = ({ isRefusing }: Model, { customerId }: CustomerEntry) =>
  isRefusing && customerId.startsWith('refused');

const isErased = ({ merged }: Model, { customerId, version }: CustomerEntry) =>
  [...merged.values()].some((known) => known.erase && known.customerId === customerId && known.version >= version);

function take(model: Model, { entries }: Chunk): void {
  for (const entry of entries) {
    if (isRefused(model, entry)) {
      if (!isErased(model, entry)) model.letters.set(keyOf(entry), entry);
      continue;
    }
    model.merged.set(keyOf(entry), entry);
    if (!entry.erase) continue;
    for (const [key, letter] of model.letters) {
      if (letter.customerId === entry.customerId && letter.version <= entry.version) model.letters.delete(key);
    }
  }
}

/** A trigger that makes PostgreSQL reject customers whose id begins with "refused" while `refusing.is_on` is true. */
const TRIGGER = `
  CREATE TABLE refusing (is_on boolean);
  INSERT INTO refusing VALUES (false);
  CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.customer_id LIKE 'refused%' AND (SELECT is_on FROM refusing) THEN
      RAISE 'refused' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER refuse BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION refuse()`;

/** One project of the real stack. */
class Project {
  constructor(
    readonly stack: Stack,
    readonly projectId: number,
  ) {}

  async post(drawn: { customerId: string; fields?: object; erase?: true }[]): Promise<Chunk> {
    const { projectId } = this;
    const asking = drawn.map((entry) => ({ ...entry, projectId }));
    const { admitted } = await this.stack.queue.admit(0, asking);
    const chunk: Chunk = { entries: asking.map((entry, i) => ({ ...entry, version: admitted[i]?.version ?? 0 })) };
    await this.enqueue(chunk);
    return chunk;
  }

  enqueue = (chunk: Chunk) => this.stack.queue.enqueue(0, chunk);

  async check(model: Model): Promise<void> {
    await this.stack.drained();
    expect(await this.stack.readStates(this.projectId)).toEqual(foldEntries(model.merged.values()));
    const letters = await this.stack.store.deadLetters.list({ projectId: this.projectId }, { limit: 1_000 });
    expect(letters.map(({ customerId, version }) => `${customerId} ${version}`).sort()).toEqual(
      [...model.letters.keys()].sort(),
    );
  }
}

const entries = fc.array(
  fc
    .record({
      customerId: fc.constantFrom('a', 'refused a', 'refused b'),
      given: fc.subarray([...FIELDS], { minLength: 1 }),
      value: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 5 }).filter((text) => !text.includes('\0')),
      isErasure: fc.integer({ min: 0, max: 2 }).map((n) => n === 0),
    })
    .map(({ customerId, given, value, isErasure }) =>
      isErasure
        ? { customerId, erase: true as const }
        : { customerId, fields: Object.fromEntries(['email', ...given].map((field) => [field, value])) },
    ),
  { minLength: 1, maxLength: 20 },
);

const command = (name: string, run: Command['run'], check: Command['check'] = () => true): Command => ({
  check,
  run,
  toString: () => name,
});

const commands = fc.commands(
  [
    entries.map((drawn) =>
      command(`post ${JSON.stringify(drawn)}`, async (model, project) => {
        const chunk = await project.post(drawn);
        model.chunks.push(chunk);
        take(model, chunk);
      }),
    ),
    fc.nat(99).map((n) =>
      command(
        `enqueue chunk ${n} once more`,
        async (model, project) => {
          const chunk = model.chunks[n % model.chunks.length] as Chunk;
          await project.enqueue(chunk);
          take(model, chunk);
        },
        ({ chunks }) => chunks.length > 0,
      ),
    ),
    fc.constantFrom(0, 1).map((n) => command(`kill worker ${n}`, (_model, { stack }) => stack.killWorker(n))),
    fc.constant(
      command('refuse, or stop refusing', async (model, project) => {
        await project.check(model);
        model.isRefusing = !model.isRefusing;
        await project.stack.setRefusing(model.isRefusing);
      }),
    ),
    fc.constant(
      command('replay', async (model, project) => {
        await project.check(model);
        const letters = [...model.letters.values()];
        expect(await project.stack.replay(project.projectId)).toMatchObject({ replayed: letters.length, skipped: 0 });
        model.letters.clear();
        take(model, { entries: letters.map((letter) => ({ ...letter, projectId: project.projectId })) });
        await project.check(model);
      }),
    ),
  ],
  { maxCommands: 25 },
);

class Stack {
  readonly #backend: Backend;
  readonly #dashboard: DashboardQueues;
  readonly #client: pg.Client;
  readonly #workers: TestApp[];

  private constructor(
    backend: Backend,
    readonly store: Store,
    readonly queue: EntryQueue,
    dashboard: DashboardQueues,
    client: pg.Client,
    workers: TestApp[],
  ) {
    this.#backend = backend;
    this.#dashboard = dashboard;
    this.#client = client;
    this.#workers = workers;
  }

  static async start(backend: Backend): Promise<Stack> {
    const options = { ...backend, shards: 1, signal: new AbortController().signal, onError: () => {} };
    const client = new pg.Client({ connectionString: backend.databaseUrl });
    await client.connect();
    await client.query(TRIGGER);
    return new Stack(
      backend,
      createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' }),
      await createEntryQueue(options),
      await openDashboardQueues(options),
      client,
      await Promise.all([startWorker(backend), startWorker(backend)]),
    );
  }

  async createProject(name: string): Promise<Project> {
    const { projectId } = await this.store.projects.create(name);
    return new Project(this, projectId);
  }

  async killWorker(n: number): Promise<void> {
    await this.#workers[n]?.stop('SIGKILL');
    this.#workers[n] = await startWorker(this.#backend);
  }

  async setRefusing(isRefusing: boolean): Promise<void> {
    await this.#client.query('UPDATE refusing SET is_on = $1', [isRefusing]);
  }

  async drained(): Promise<void> {
    const isEmpty = async () => {
      const counts = await this.#dashboard.queues[0]?.getJobCounts();
      return Object.values(counts ?? { none: 1 }).every((count) => count === 0);
    };
    await waitFor(isEmpty, { description: 'an empty queue' });
  }

  /** Replays dead letters as `opm dead-letters replay` does. */
  async replay(projectId: number): Promise<Replayed> {
    const { deadLetters, customers } = this.store;
    return replay({
      deadLetters,
      findErased: customers.findErased,
      queue: this.queue,
      shards: 1,
      filter: { projectId },
      rate: 200,
      onProgress: () => {},
      signal: new AbortController().signal,
    });
  }

  async readStates(projectId: number): Promise<Map<string, CustomerState>> {
    const { rows } = await this.#client.query(
      `SELECT *, (extract(epoch FROM created_at) * 1000000)::bigint AS first_version,
         (extract(epoch FROM updated_at) * 1000000)::bigint AS last_version
       FROM customers WHERE project_id = $1`,
      [projectId],
    );
    return new Map(rows.map((row) => [row.customer_id, toState(row)]));
  }

  async stop(): Promise<void> {
    const exits = await Promise.all(this.#workers.map((worker) => worker.stop()));
    expect(exits).toEqual(exits.map(() => ({ code: 0, signal: null })));
    await this.queue.close();
    await this.#dashboard.close();
    await this.store.close();
    await this.#client.end();
    await this.#backend.drop();
  }
}

// A short lock, so that the other worker soon gets the jobs of a killed one.
const startWorker = (backend: Backend) => startApp('worker', { ...backend.env, JOB_LOCK_MS: '2000' });

const COLUMN = { email: 'email', phone: 'phone', firstName: 'first_name', lastName: 'last_name', ip: 'ip' };

function toState(row: Record<string, string | null>): CustomerState {
  const fields: CustomerState['fields'] = {};
  const versions = { email: 0, phone: 0, firstName: 0, lastName: 0, ip: 0 };
  for (const field of FIELDS) {
    const value = row[COLUMN[field]];
    if (value) fields[field] = value;
    versions[field] = Number(row[`${COLUMN[field]}_version`]);
  }
  return {
    fields,
    versions,
    erasedVersion: Number(row.erased_version),
    firstVersion: Number(row.first_version),
    lastVersion: Number(row.last_version),
  };
}

describe.each(BACKENDS)('two workers with the queue on %s:', (_, createBackend) => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await Stack.start(await createBackend());
  });
  afterAll(() => stack.stop());

  test('whatever is posted, repeated, erased, rejected and replayed while workers are killed, the tables equal the model', async () => {
    let runs = 0;
    const check = async (run: (project: Project, model: Model) => Promise<void>) => {
      const project = await stack.createProject(`run ${runs++}`);
      const model: Model = { isRefusing: false, chunks: [], merged: new Map(), letters: new Map() };
      await stack.setRefusing(false);
      await run(project, model);
      await project.check(model);
    };
    const property = fc.asyncProperty(commands, (drawn) =>
      check((real, model) => fc.asyncModelRun(() => ({ model, real }), drawn)),
    );
    await search(property, { min: 2, max: 8, ms: 20_000 });
  });
});
