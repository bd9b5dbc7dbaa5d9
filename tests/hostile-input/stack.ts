import { expect } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';
import pg from 'pg';
import { type Answer, expectDocumented } from './answers.js';
import { type TalkOptions, talk } from './talk.js';
import type { Row } from './to-row.js';

/** A partner with its own customers. */
export type Project = { projectId: number; apiKey: string };

/** Heap limit of the ingress, of which it uses 40 MB when idle. Unbounded buffering exceeds it and ends the process. */
const HEAP_MB = 192;
const MAX_RESIDENT_BYTES = 512 * 1024 * 1024;

/** A real ingress and worker with their own database, and checks that must hold whatever is sent. */
export class Stack {
  readonly port: number;
  #posted = 0;

  private constructor(
    readonly backend: Backend,
    readonly ingress: TestApp,
    readonly worker: TestApp,
    readonly store: Store,
    readonly client: pg.Client,
  ) {
    this.port = Number(new URL(ingress.url).port);
  }

  static async start(backend: Backend, env: NodeJS.ProcessEnv = {}): Promise<Stack> {
    const client = new pg.Client({ connectionString: backend.databaseUrl });
    await client.connect();
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const bound = { NODE_OPTIONS: `--max-old-space-size=${HEAP_MB}` };
    const ingress = await startApp('ingress', { ...backend.env, ...bound, ...env });
    return new Stack(backend, ingress, await startApp('worker', backend.env), store, client);
  }

  createProject(): Promise<Project> {
    return this.store.projects.create(`partner ${this.#posted++}`);
  }

  talk = (pieces: (string | Uint8Array)[], options?: TalkOptions): Promise<Answer[]> =>
    talk(this.port, pieces, options);

  /** Posts a body unchanged. */
  post(project: Project, body: string | Uint8Array): Promise<Answer> {
    return this.fetch(project, '/entry', { method: 'POST', body: body as BodyInit });
  }

  /** Sends a request; expects a documented answer. */
  async fetch({ apiKey }: Project, path: string, { headers, ...init }: RequestInit = {}): Promise<Answer> {
    const response = await fetch(this.ingress.url + path, { ...init, headers: { ...headers, 'x-api-key': apiKey } });
    const answer = {
      status: response.status,
      requestId: response.headers.get('x-request-id') ?? undefined,
      headers: new Map(response.headers),
      text: await response.text(),
    };
    expectDocumented(answer);
    return answer;
  }

  /**
   * Returns the project's rows by customer id, without those of erased customers, once every acknowledged entry of all
   * projects is persisted.
   */
  async readRows({ projectId }: Project): Promise<Map<string, Row>> {
    const isSettled = async () => (await this.#countPersisted()) >= (await this.#countQueued());
    await waitFor(isSettled, { description: 'every acknowledged entry to be persisted' });
    const { rows } = await this.client.query<Row>(
      `SELECT customer_id AS "customerId", email, phone, first_name AS "firstName", last_name AS "lastName", ip
       FROM customers WHERE project_id = $1 AND (email IS NOT NULL OR phone IS NOT NULL)`,
      [projectId],
    );
    return new Map(rows.map((row) => [row.customerId, row]));
  }

  /** Expects that the ingress still accepts entries and uses no more memory than allowed. */
  async expectUnharmed(): Promise<void> {
    const project = await this.createProject();
    const entry = { customerId: 'good', customerEmail: 'jane@example.com' };
    expect((await this.post(project, JSON.stringify(entry))).status).toBe(201);
    expect((await this.readRows(project)).get('good')?.email).toBe(entry.customerEmail);
    expect(await this.ingress.readMetric('process_resident_memory_bytes')).toBeLessThan(MAX_RESIDENT_BYTES);
  }

  async stop(): Promise<void> {
    const exits = await Promise.all([this.ingress.stop(), this.worker.stop()]);
    expect(exits).toEqual(exits.map(() => ({ code: 0, signal: null })));
    await this.store.close();
    await this.client.end();
    await this.backend.drop();
  }

  #countPersisted = () => this.worker.readMetric('opm_entries_persisted_total');
  #countQueued = () => this.ingress.readMetric('opm_chunk_entries_sum');
}
