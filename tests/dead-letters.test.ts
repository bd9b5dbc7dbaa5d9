import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type CustomerEntry, foldEntries } from '@opm/core';
import { toChunkData } from '@opm/queue';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, runOpm, startApp, startProcess, type TestApp, waitFor } from '@opm/testkit';

describe.each(BACKENDS)('opm dead-letters, with the queue on %s:', (queue, createBackend) => {
  let backend: Backend;
  let store: Store;
  let worker: TestApp;
  let projectId: number;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ projectId } = await store.projects.create('acme'));
    await store.projects.create('another');
    worker = await startApp('worker', backend.env);
  });
  afterAll(async () => {
    await worker.stop();
    await store.close();
    await backend.drop();
  });

  const T0 = 1_764_000_000_000_000;
  const addAll = (entries: CustomerEntry[], sqlState = '22021') =>
    store.deadLetters.add(
      entries.map((entry) => ({ projectId, entry, payload: entry, error: 'refused for the test', sqlState })),
    );
  const add = (entry: CustomerEntry, sqlState?: string) => addAll([entry], sqlState);
  const entryOf = (customerId: string, version: number, email = 'old@example.com'): CustomerEntry => ({
    customerId,
    version,
    fields: { email },
  });

  const opm = async (...args: string[]) => {
    const outcome = await runOpm(['dead-letters', ...args], backend.env);
    // Removes progress lines, which slow runs print.
    return { ...outcome, stderr: outcome.stderr.replace(/^\[.*\n/gm, '') };
  };
  const opmJson = async (...args: string[]) => {
    const { code, stdout, stderr } = await opm(...args, '--json');
    if (code !== 0) throw new Error(stderr);
    return JSON.parse(stdout);
  };
  const openLetters = () => store.deadLetters.list({}, { limit: 1_000 });
  const emailOf = async (customerId: string) => (await store.customers.find(projectId, customerId))?.email;

  test('a replayed dead letter becomes a row, and never overwrites newer values', async () => {
    await add(entryOf('new', T0));
    await add(entryOf('known', T0));
    const known = entryOf('known', T0 + 1, 'newer@example.com');
    const fields = {
      fields: { email: 'newer@example.com' },
      versions: { email: T0 + 1, phone: 0, firstName: 0, lastName: 0, ip: 0 },
    };
    const state = { ...fields, erasedVersion: 0, firstVersion: T0 + 1, lastVersion: T0 + 1 };
    await store.customers.upsert([{ projectId, customerId: known.customerId, state }]);

    expect(await opmJson('count', '--project', 'acme')).toEqual({
      count: 2,
      groups: [{ projectId, sqlState: '22021', count: 2 }],
    });
    // A table names the project instead.
    expect((await opm('count')).stdout).toMatch(/^acme +22021 +2$/m);
    expect((await opm('list')).stdout).toMatch(/^\d+ +acme +(new|known) /m);
    expect(await opmJson('replay', '--dry-run')).toEqual({ dryRun: true, count: 2 });
    expect(await opmJson('replay', '--project', 'another')).toEqual({ replayed: 0, skipped: 0 });
    expect(await openLetters()).toHaveLength(2);

    expect(await opm('replay', '--project', 'acme')).toEqual({
      code: 0,
      stdout: 'Requeued 2 dead letters.\n',
      stderr: '',
    });
    await waitFor(async () => (await emailOf('new')) === 'old@example.com', { description: 'the row' });
    expect(await emailOf('known')).toBe('newer@example.com');
    expect(await openLetters()).toEqual([]);
  });

  test('a dead letter that is rejected again becomes a dead letter again, and the run ends', async () => {
    const customerId = Array.from({ length: 9_000 }, () =>
      String.fromCodePoint(33 + Math.floor(Math.random() * 90)),
    ).join('');
    const tooLong = { customerId, version: T0, fields: { email: 'a@example.com' } };
    await add(tooLong, '54000');
    expect(await opmJson('replay', '--sql-state', '54')).toEqual({ replayed: 1, skipped: 0 });
    await waitFor(async () => (await openLetters()).length === 1, {
      description: 'the letter',
    });
    const [letter] = await opmJson('list');
    expect((await opmJson('show', letter.deadLetterId)).payload).toEqual(tooLong);
    expect(await opmJson('discard', '--id', letter.deadLetterId)).toEqual({ discarded: 1 });
  });

  // Erasures and dead letters are in PostgreSQL with either queue.
  if (queue === 'Redis') {
    test('a dead letter whose data is not a chunk does not bring back an erased customer, however late it is replayed', async () => {
      const entries = [entryOf('erased', T0), entryOf('not erased', T0 + 1)];
      const payload = toChunkData({ entries: entries.map((entry) => ({ projectId, ...entry })) });
      await store.deadLetters.add([{ payload, error: 'job data is not a chunk' }]);
      const state = foldEntries([{ customerId: 'erased', version: T0 + 2, erase: true }]).get('erased');
      if (state) await store.customers.upsert([{ projectId, customerId: 'erased', state }]);
      expect(await store.customers.purgeTombstones(new Date())).toBe(0);

      expect(await opmJson('replay')).toEqual({ replayed: 1, skipped: 0 });
      await store.mark.noteFinished(Date.now() * 1_000); // as the worker notes within a minute
      expect(await store.customers.purgeTombstones(new Date())).toBe(1);
      await waitFor(() => emailOf('not erased'), { description: 'the row' });
      expect(await emailOf('erased')).toBeUndefined();
    });
  }

  test('any number of dead letters is replayed, and those that no worker can read are skipped and stay', async () => {
    await addAll(Array.from({ length: 250 }, (__, i) => entryOf(`many ${i}`, T0 + i)));
    await store.deadLetters.add([{ payload: { odd: 1 }, error: 'job data is not a chunk' }]);
    const ofALaterVersion = { ...entryOf('later', T0), fields: { email: 'a@example.com', city: 'Rome' } };
    await add(ofALaterVersion);
    expect(await opmJson('replay', '--rate', '5000')).toEqual({ replayed: 250, skipped: 2 });
    const [letter] = await opmJson('list', '--project', 'acme');
    expect((await opmJson('show', letter.deadLetterId)).payload).toEqual(ofALaterVersion);
    expect(await opmJson('discard', '--id', letter.deadLetterId)).toEqual({ discarded: 1 });
    await waitFor(async () => (await emailOf('many 249')) && emailOf('many 0'), { description: 'the rows' });
    expect(await openLetters()).toMatchObject([{ error: 'job data is not a chunk' }]);
    expect(await opm('replay')).toMatchObject({
      stdout: 'Requeued 0 dead letters.\nSkipped 1 dead letter that cannot be read as an entry.\n',
    });
  });

  // Dead letters are in PostgreSQL with either queue, and options are checked before it is opened.
  if (queue === 'Redis') {
    test('a stopped replay ends between two dead letters, and none is lost', async () => {
      await addAll(Array.from({ length: 20 }, (__, i) => entryOf(`stopped ${i}`, T0 + i)));
      const replay = await startProcess({
        file: 'apps/cli/bin/opm.js',
        args: ['dead-letters', 'replay', '--rate', '1', '--json'],
        env: backend.env,
      });
      const letters = () => store.deadLetters.list({ projectId }, { limit: 100 });
      await waitFor(async () => (await letters()).length < 20, { description: 'the first letters to be replayed' });
      expect(await replay.stop('SIGINT')).toEqual({ code: 130, signal: null });
      const { replayed, isStopped } = JSON.parse(replay.output().replace(/^\[.*\n/gm, ''));
      expect([replayed, isStopped]).toEqual([20 - (await letters()).length, true]);
      expect(replayed).toBeLessThan(20);
      expect(await opmJson('discard', '--project', 'acme')).toEqual({ discarded: 20 - replayed });
    });

    test('discard needs a filter or --all', async () => {
      expect(await opm('discard')).toEqual({
        code: 2,
        stdout: '',
        stderr:
          'opm: select dead letters with --id, --project, --since, --until, --error or --sql-state, or use --all\n',
      });
      await add(entryOf('kept', T0));
      expect(await opmJson('discard', '--until', '1h', '--dry-run')).toEqual({ dryRun: true, count: 0 });
      expect(await opmJson('discard', '--since', '1h', '--error', 'NOT A CHUNK', '--dry-run')).toMatchObject({
        count: 1,
      });
      expect(await opmJson('discard', '--error', 'not a chunk')).toEqual({ discarded: 1 });
      expect(await opmJson('discard', '--all')).toEqual({ discarded: 1 });
    });

    test('an unreachable queue or wrong variables give one clear line, and no dead letter is lost', async () => {
      await add(entryOf('kept', T0));
      const withEnv = async (env: NodeJS.ProcessEnv) => {
        const before = backend.env;
        backend.env = { ...before, ...env };
        const outcome = await opm('replay');
        backend.env = before;
        return outcome;
      };
      expect(await withEnv({ REDIS_URL: 'redis://127.0.0.1:1' })).toMatchObject({
        code: 4,
        stderr: 'opm: cannot reach the queue: connect ECONNREFUSED 127.0.0.1:1\n',
      });
      expect(await withEnv({ QUEUE_SHARDS: '3' })).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^opm: QUEUE_SHARDS is 3, but the queue has 1: /),
      });
      expect(await withEnv({ QUEUE_SHARDS: 'two' })).toMatchObject({
        code: 1,
        stderr: 'opm: QUEUE_SHARDS is not valid: number of queues, 1 to 1000, the same for every process\n',
      });
      const wrong: [string, string, number, RegExp][] = [
        ['--since', 'yesterday', 2, /It must be a time such as/],
        ['--until', '2026-13-01', 2, /It must be a time such as/],
        ['--rate', '0', 2, /It must be at least 1/],
        ['--id', 'x', 2, /It must be a whole number/],
        ['--error', '', 2, /It must not be empty/],
        ['--sql-state', '2', 2, /It must have 5 characters/],
        ['--project', 'none', 3, /^opm: there is no project "none"/],
      ];
      const refusals = await Promise.all(wrong.map(([option, value]) => opm('replay', option, value)));
      expect(refusals).toEqual(
        wrong.map(([, , code, message]) => expect.objectContaining({ code, stderr: expect.stringMatching(message) })),
      );
      expect(await opmJson('discard', '--all')).toEqual({ discarded: 1 });
    });
  }
});
