import { mkdtemp, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { hashApiKey } from '@opm/core';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, query, runOpm, startApp, type TestApp, waitFor } from '@opm/testkit';

const HOUR_MS = 3_600_000;

/** A module that shifts the JavaScript clock of a process. */
const toPreload = (shiftMs: number) => `
  const Real = Date;
  globalThis.Date = class Date extends Real {
    constructor(...given) {
      if (given.length > 0) super(...given);
      else super(Real.now() + ${shiftMs});
    }
    static now() {
      return Real.now() + ${shiftMs};
    }
  };`;

describe.each(BACKENDS)('an operator whose clock is wrong, with the queue on %s:', (queue, createBackend) => {
  let backend: Backend;
  let store: Store;
  let worker: TestApp;
  let directory: string;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    worker = await startApp('worker', backend.env);
    directory = await mkdtemp(join(tmpdir(), 'opm-clocks-'));
  });
  afterAll(async () => {
    await worker.stop();
    await store.close();
    await backend.drop();
    await rm(directory, { recursive: true });
  });

  const createOpm = (shiftMs: number) => {
    const preload = `data:text/javascript,${encodeURIComponent(toPreload(shiftMs))}`;
    return (...args: string[]) => runOpm(args, { ...backend.env, NODE_OPTIONS: `--import ${preload}` });
  };
  const readMinutes = async (expression: string, projectId: number) => {
    const text = `SELECT extract(epoch FROM ${expression} - now())::float / 60 AS minutes FROM api_keys k
      JOIN projects p ON p.id = k.project_id WHERE p.id = $1 ORDER BY k.id LIMIT 1`;
    return (await query<{ minutes: number }>(backend.databaseUrl, text, [projectId]))[0]?.minutes;
  };
  const isOpen = async (apiKey: string) => (await store.apiKeys.findOwners([hashApiKey(apiKey)])).size === 1;

  describe.each([
    ['ahead', HOUR_MS],
    ['behind', -HOUR_MS],
  ])('an hour %s,', (what, shiftMs) => {
    const opm = createOpm(shiftMs);
    let projects = 0;
    const nextName = () => `${what} ${++projects}`;
    const create = () => store.projects.create(nextName());

    const LINES = 2_000;
    const write = async (changedAt: Date) => {
      const file = join(directory, `${what}.csv`);
      const lines = Array.from({ length: LINES }, (__, i) => `${i},+${i}`);
      await writeFile(file, ['customerId,customerPhone', ...lines].join('\r\n'));
      await utimes(file, changedAt, changedAt);
      return { file, changedAt: (await stat(file)).mtimeMs };
    };
    const readVersions = async (projectId: number) => {
      const text = `SELECT min(phone_version)::float AS first, max(phone_version)::float AS last, count(*)::integer
        FROM customers WHERE project_id = $1`;
      const find = async () => {
        const [row] = await query<{ first: number; last: number; count: number }>(backend.databaseUrl, text, [
          projectId,
        ]);
        return row?.count === LINES && row;
      };
      return waitFor(find, { description: 'the rows' });
    };

    test('imported lines are as old as their file, and none is newer', async () => {
      const { projectId, name } = await create();
      const { file, changedAt } = await write(new Date());
      expect((await opm('customers', 'import', file, '--project', name)).code).toBe(0);
      const { first, last } = await readVersions(projectId);
      expect(last).toBeLessThanOrEqual(changedAt * 1_000);
      expect(last).toBeGreaterThan((changedAt - 1_000) * 1_000);
      expect(last - first).toBe(LINES - 1);
    });

    test('a file from the queue’s future is refused, and an age counts from the queue’s clock', async () => {
      const { projectId, name } = await create();
      const { file } = await write(new Date(Date.now() + HOUR_MS / 2));
      const refused = await opm('customers', 'import', file, '--project', name);
      expect({ ...refused, stdout: '' }).toEqual({
        code: 1,
        stdout: '',
        stderr: expect.stringMatching(/is in the future of the queue's clock/),
      });
      expect((await opm('customers', 'import', file, '--project', name, '--as-of', '30m')).code).toBe(0);
      const minutesAgo = (Date.now() - (await readVersions(projectId)).last / 1_000) / 60_000;
      expect(minutesAgo).toBeGreaterThanOrEqual(30);
      expect(minutesAgo).toBeLessThan(40);
    });

    if (queue === 'PostgreSQL') return; // the rest has no clock of a queue

    test('keys expire by PostgreSQL’s clock, and are listed and revoked by it', async () => {
      const created = await opm('projects', 'create', nextName(), '--json');
      const { projectId, name, apiKey } = JSON.parse(created.stdout);
      const rotated = JSON.parse((await opm('keys', 'rotate', name, '--grace', '30m', '--json')).stdout);
      expect(await readMinutes('k.created_at', projectId)).toBeCloseTo(0, -1);
      expect(await readMinutes('p.created_at', projectId)).toBeCloseTo(0, -1);
      expect(await readMinutes('k.expires_at', projectId)).toBeCloseTo(30, -1);
      expect((Date.parse(rotated.oldKeysEndAt) - Date.now()) / 60_000).toBeCloseTo(30, -1);
      const list = JSON.parse((await opm('keys', 'list', name, '--json')).stdout) as { status: string }[];
      expect(list.map(({ status }) => status)).toEqual(['active', 'active']);
      expect([await isOpen(apiKey), await isOpen(rotated.apiKey)]).toEqual([true, true]);

      expect(JSON.parse((await opm('keys', 'revoke', name, '--json')).stdout)).toEqual({ revoked: 2 });
      expect([await isOpen(apiKey), await isOpen(rotated.apiKey)]).toEqual([false, false]);
      expect(await readMinutes('k.revoked_at', projectId)).toBeCloseTo(0, -1);
    });

    test('the age of a dead letter is measured by PostgreSQL’s clock', async () => {
      const { projectId, name } = await create();
      const text = `INSERT INTO dead_letters (project_id, payload, error, created_at) VALUES ($1, '{}', 'x', now() - interval '10 minutes')`;
      await query(backend.databaseUrl, text, [projectId]);
      const count = async (...args: string[]) =>
        JSON.parse((await opm('dead-letters', 'count', '--project', name, '--json', ...args)).stdout).count;
      expect(await Promise.all([count('--since', '30m'), count('--since', '5m')])).toEqual([1, 0]);
      expect(await Promise.all([count('--until', '30m'), count('--until', '5m')])).toEqual([0, 1]);
    });

    test('the start of a restore’s window is an age by PostgreSQL’s clock', async () => {
      const { stdout } = await opm('restored', '--since', '2h', '--dry-run', '--force', '--json');
      expect((Date.now() - Date.parse(JSON.parse(stdout).from)) / 60_000).toBeCloseTo(120, -1);
    });
  });
});
