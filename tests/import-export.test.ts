import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, runOpm, startApp, startProcess, type TestApp, waitFor } from '@opm/testkit';
import fc from 'fast-check';
import { connectQueueBackend } from '../packages/queue/src/queue-backend.js';
import { NAUGHTY_STRINGS, text } from './hostile-input/bodies.js';
import { valueToRow } from './hostile-input/to-row.js';

describe.each(BACKENDS)('opm customers import and export, with the queue on %s:', (queue, createBackend) => {
  let backend: Backend;
  let store: Store;
  let ingress: TestApp;
  let worker: TestApp;
  let directory: string;
  let expectPersisted = 0;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    directory = await mkdtemp(join(tmpdir(), 'opm-import-'));
    ingress = await startApp('ingress', backend.env);
    worker = await startApp('worker', backend.env);
  });
  afterAll(async () => {
    await Promise.all([ingress.stop(), worker.stop()]);
    await store.close();
    await backend.drop();
    await rm(directory, { recursive: true });
  });

  /** Runs the command; removes progress lines, which slow runs print. */
  async function opm(...args: string[]) {
    const outcome = await runOpm(['customers', ...args], backend.env);
    return { ...outcome, stderr: outcome.stderr.replace(/^\[.*\n/gm, '') };
  }
  let projects = 0;
  const createProject = () => store.projects.create(`project ${++projects}`);
  const nameOf = () => `project ${projects}`;

  let files = 0;
  /** Writes a file that was last changed a day ago. */
  async function write(content: string | Buffer, format = 'ndjson'): Promise<string> {
    const file = join(directory, `${++files}.${format}`);
    await writeFile(file, content);
    const yesterday = new Date(Date.now() - 24 * 60 * 60 * 1_000);
    await utimes(file, yesterday, yesterday);
    return file;
  }

  async function importFile(file: string, ...args: string[]) {
    const { code, stdout, stderr } = await opm('import', file, '--project', nameOf(), '--json', ...args);
    if (stdout === '') throw new Error(stderr);
    const { imported, rejected } = JSON.parse(stdout);
    expect(code).toBe(rejected > 0 ? 1 : 0);
    await expectAllPersisted(imported);
    const rejects = existsSync(`${file}.rejected.ndjson`) ? await readFile(`${file}.rejected.ndjson`, 'utf8') : '';
    const reasons = rejects.split('\n').flatMap((line) => (line ? [JSON.parse(line)] : []));
    expect(reasons).toHaveLength(rejected);
    return { imported, rejected, reasons, stderr };
  }

  async function expectAllPersisted(more: number): Promise<void> {
    expectPersisted += more;
    const persisted = () => worker.readMetric('opm_entries_persisted_total');
    await waitFor(async () => (await persisted()) >= expectPersisted, { description: 'rows' });
  }

  const rowsOf = (projectId: number) => store.customers.page(projectId, { afterId: '', limit: 100_000 });

  test('lines become rows, and lines that are not entries go into a file with the reason', async () => {
    const { projectId } = await createProject();
    const lines = [
      '{"customerId":1,"customerEmail":"a@example.com","other":1}',
      '{"customerId":2}',
      '',
      '{"customerId":1,"customerPhone":"+1","customerEmail":"b@example.com"}\r',
      '{"customerId":3,"customerPhone":3}',
      'x'.repeat(20_000),
      '{"customerId":4,"customerPhone":"+4"}',
    ];
    const { imported, reasons } = await importFile(await write(lines.join('\n')));
    expect(imported).toBe(3);
    expect(reasons).toEqual([
      {
        line: 2,
        reason: "body must have either required property 'customerEmail' or 'customerPhone'",
        text: '{"customerId":2}',
      },
      { line: 5, reason: 'body/customerPhone must be string', text: '{"customerId":3,"customerPhone":3}' },
      { line: 6, reason: 'body must not be larger than 16 KiB', text: '' },
    ]);
    expect(await rowsOf(projectId)).toMatchObject([
      { customerId: '1', email: 'b@example.com', phone: '+1' },
      { customerId: '4', email: null, phone: '+4' },
    ]);
  });

  test('importing a file again changes nothing, and newer entries and erasures stay', async () => {
    const { projectId, apiKey } = await createProject();
    const lines = ['same', 'newer', 'erased'].map((customerId) => ({ customerId, customerEmail: 'old@example.com' }));
    const file = await write(lines.map((line) => JSON.stringify(line)).join('\n'));
    await importFile(file);
    const headers = { 'x-api-key': apiKey };
    const body = JSON.stringify({ customerId: 'newer', customerEmail: 'new@example.com' });
    expect((await fetch(`${ingress.url}/entry`, { method: 'POST', headers, body })).status).toBe(202);
    expect((await fetch(`${ingress.url}/entry/erased`, { method: 'DELETE', headers })).status).toBe(202);
    await expectAllPersisted(2);
    const rows = await rowsOf(projectId);
    expect(rows.map(({ customerId, email }) => [customerId, email])).toEqual([
      ['newer', 'new@example.com'],
      ['same', 'old@example.com'],
    ]);

    await importFile(file);
    expect(await rowsOf(projectId)).toEqual(rows);
    await importFile(file, '--as-of', new Date().toISOString());
    expect((await rowsOf(projectId)).map(({ email }) => email)).toEqual(Array(3).fill('old@example.com'));
  });

  // Both queues get the same parsed entries.
  if (queue === 'Redis') {
    test('CSV columns may be in any order, and each line is accepted or rejected by itself', async () => {
      const { projectId } = await createProject();
      const csv = Buffer.concat([
        Buffer.from('\ufeffcustomerPhone;note; customerId ;customerFirstName\r\n'),
        Buffer.from('+1;x;007;"Ann ""A""\nLee"\r\n\r\n+2;x;8\r\n+3;x;;c\r\n'),
        Buffer.from('+4;x;9;J\xf6rg\r\n', 'latin1'),
        Buffer.from('+5;x;10;'),
      ]);
      const { imported, reasons, stderr } = await importFile(await write(csv, 'CSV'), '--delimiter', ';');
      expect(stderr).toBe('opm: ignoring unknown columns: note\n');
      expect(imported).toBe(2);
      expect(reasons.map(({ line, reason }) => [line, reason])).toEqual([
        [5, 'line has 3 columns instead of 4'],
        [6, 'body/customerId must NOT have fewer than 1 characters'],
        [7, 'line must be UTF-8'],
      ]);
      expect(await rowsOf(projectId)).toMatchObject([
        { customerId: '007', phone: '+1', firstName: 'Ann "A"\nLee' },
        { customerId: '10', phone: '+5', firstName: null },
      ]);
    });

    test('only the CSV row that is too large is rejected, and other columns do not count', async () => {
      const { projectId } = await createProject();
      const rows = ['1,+1,x', `2,+2,${'x'.repeat(100_000)}`, `3,${'3'.repeat(100_000)},x`, '4,+4,x'];
      const { imported, reasons } = await importFile(
        await write(`customerId,customerPhone,note\n${rows.join('\n')}`, 'csv'),
      );
      expect(imported).toBe(3);
      expect(reasons).toMatchObject([{ line: 4, reason: 'body must not be larger than 16 KiB' }]);
      expect(await rowsOf(projectId)).toMatchObject([{ customerId: '1' }, { customerId: '2' }, { customerId: '4' }]);
    });

    test('a row of CSV may end with any letter', async () => {
      const { projectId } = await createProject();
      const names = ['Voilà', 'ПЕТР', 'x\u00a0'];
      const rows = names.map((name, i) => `${i},+1,${name}\r\n`);
      await importFile(await write(`customerId,customerPhone,customerFirstName\r\n${rows.join('')}`, 'csv'));
      expect((await rowsOf(projectId)).map(({ firstName }) => firstName)).toEqual(names);
    });

    test('a file may begin with a byte order mark', async () => {
      const { projectId } = await createProject();
      await importFile(await write('\ufeff{"customerId":1,"customerPhone":"+1"}\n', 'ndjson'));
      expect(await rowsOf(projectId)).toMatchObject([{ customerId: '1', phone: '+1' }]);
    });

    test.each(['tab', '\\t'])('columns may be separated by tabs: --delimiter %s', async (delimiter) => {
      const { projectId } = await createProject();
      await importFile(await write('customerId\tcustomerPhone\n1\t+1\n', 'csv'), '--delimiter', delimiter);
      expect(await rowsOf(projectId)).toMatchObject([{ customerId: '1', phone: '+1' }]);
    });

    test('whatever is stored, an export imported into another project gives the same export', async () => {
      const customer = fc.record(
        { customerId: text, customerEmail: text, customerFirstName: text },
        { requiredKeys: ['customerId', 'customerEmail'] },
      );
      const property = fc.asyncProperty(fc.array(customer, { minLength: 1, maxLength: 100 }), async (customers) => {
        const drawn = [
          ...customers,
          ...NAUGHTY_STRINGS.map((string) => ({ customerId: string, customerPhone: string })),
        ];
        const stored = drawn.filter((body) => valueToRow(body) !== undefined);
        const { projectId } = await createProject();
        const lines = await write(drawn.map((body) => JSON.stringify(body)).join('\n'));
        expect((await importFile(lines)).imported).toBe(stored.length);
        expect(await rowsOf(projectId)).toHaveLength(new Set(stored.map(({ customerId }) => customerId)).size);
        const withoutTimes = (exported: string) => exported.replace(/,[^,]*,[^,]*$/gm, '');

        for (const format of ['ndjson', 'csv']) {
          const args = ['export', '--format', format, '--project'];
          const { stdout } = await opm(...args, `project ${projectId}`);
          await createProject();
          await importFile(await write(stdout, format));
          expect(withoutTimes((await opm(...args, nameOf())).stdout)).toBe(withoutTimes(stdout));
        }
      });
      await fc.assert(property, { numRuns: 1 }); // seven commands, with hundreds of customers
    });
  }

  test('an import does not fill the queue, and a stopped import continues when it is started again', async () => {
    const { projectId } = await createProject();
    const ids = Array.from({ length: 6_000 }, (_, i) => i);
    const file = await write(ids.map((customerId) => `{"customerId":${customerId},"customerPhone":"1"}\n`).join(''));
    await worker.stop();
    const args = ['customers', 'import', file, '--project', nameOf(), '--json'];
    const idle = await runOpm(args, backend.env);
    expect([idle.code, idle.stderr]).toEqual([4, expect.stringContaining('no worker takes jobs from entries-0')]);

    await changeBacklog(45_000);
    const waiting = () => ingress.readMetric('opm_backlog_entries');
    const run = await startProcess({
      file: 'apps/cli/bin/opm.js',
      args: [...args, '--force'],
      env: backend.env,
    });
    await waitFor(async () => (await waiting()) === 50_000, { description: 'as many as may wait' });
    expect(await run.stop('SIGINT')).toEqual({ code: 130, signal: null });
    expect(JSON.parse(run.output().replace(/^\[.*\n/gm, ''))).toMatchObject({ imported: 5_000, isStopped: true });
    await changeBacklog(-45_000);

    worker = await startApp('worker', backend.env);
    expectPersisted = 5_000;
    await importFile(file);
    expect(await rowsOf(projectId)).toHaveLength(ids.length);
  });

  /** Counts entries as waiting that are in no job. */
  async function changeBacklog(entries: number): Promise<void> {
    const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };
    const { admission, close } = await connectQueueBackend({ ...backend, ...options }, 'worker', options);
    await admission.correctBacklog(0, { entries, ofProjects: new Map() });
    await close();
  }

  test('a reader that closes the pipe ends an export silently', async () => {
    const command = `set -o pipefail; node apps/cli/bin/opm.js customers export --project '${nameOf()}' | head -n 1`;
    const env = { ...process.env, ...backend.env };
    const { stdout, stderr } = await promisify(execFile)('bash', ['-c', command], { env });
    const progress = /^\d+ customers\s*$/gm; // Only on a slow machine.
    expect([JSON.parse(stdout).customerId, stderr.replace(progress, '')]).toEqual(['0', '']);
  });
});
