import { execFile } from 'node:child_process';
import { link, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createStore } from '@opm/store';
import { type Backend, createBackend, runOpm } from '@opm/testkit';

/** More than one read returns, so that an error in the first line occurs before the end of the file. */
const MANY_LINES = '1,+1\n'.repeat(50_000);

const PROJECT = 'acme';

let backend: Backend;
let directory: string;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  await store.projects.create(PROJECT).finally(store.close);
  directory = await mkdtemp(join(tmpdir(), 'opm-import-'));
});
afterAll(async () => {
  await backend.drop();
  await rm(directory, { recursive: true });
});

/** Removes progress lines, which only a slow run prints. No worker runs here, so queued entries stay queued. */
async function opmImport(file: string, ...args: string[]) {
  const outcome = await runOpm(['customers', 'import', file, '--force', '--project', PROJECT, ...args], backend.env);
  return { ...outcome, stderr: outcome.stderr.replace(/^\[.*\n/gm, '') };
}

test.each<[what: string, name: string, content: string | Buffer | undefined, args: string[], message: RegExp]>([
  ['that does not exist', 'a.csv', undefined, [], /cannot be read: ENOENT/],
  ['with another name', 'a.txt', '{}', [], /does not end in \.ndjson or \.csv: set --format/],
  ['without lines', 'a.csv', '', [], /the file is empty; its first line must name the columns/],
  ['without a header', 'a.csv', MANY_LINES, [], /the first line must name the columns: customerId/],
  [
    'with other delimiters',
    'a.csv',
    `customerId;customerPhone\n${MANY_LINES}`,
    [],
    /the first line must name the columns: customerId/,
  ],
  [
    'with a column twice',
    'a.csv',
    `customerId,customerPhone,customerPhone\n${MANY_LINES}`,
    [],
    /duplicate column "customerPhone"/,
  ],
  [
    'with an open quote',
    'a.csv',
    'customerId,customerPhone\n1,"2\n',
    [],
    /invalid CSV from line 2: Quote Not Closed$/m,
  ],
  [
    'with a quote inside a cell',
    'a.csv',
    `customerId,customerPhone\n1,se"cret\n${MANY_LINES}`,
    [],
    /invalid CSV from line 2: Invalid Opening Quote$/m,
  ],
  [
    'with a cell that never ends',
    'a.csv',
    `customerId,customerPhone\n1,${'2'.repeat(2_000_000)}\n`,
    [],
    /invalid CSV from line 2: Max Record Size$/m,
  ],
  ['that is not text', 'a.csv', Buffer.alloc(2_000_000), [], /invalid CSV from line 1: Max Record Size$/m],
  ['of the future', 'a.ndjson', '', ['--as-of', '2100-01-01'], /is in the future/],
  ['of before 1970', 'a.ndjson', '', ['--as-of', '1969-12-30'], /is before 1970/],
])('one line names the problem of a file %s', async (_, name, content, args, message) => {
  const file = join(directory, name);
  await rm(file, { force: true });
  if (content !== undefined) await writeFile(file, content);
  const { code, stdout, stderr } = await opmImport(file, ...args);
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(message);
  expect(stderr.trim().split('\n')).toHaveLength(1);
});

test('an unknown project is named, and the exit code is 3', async () => {
  const file = join(directory, 'a.ndjson');
  await writeFile(file, '');
  expect(await opmImport(file, '--project', 'nobody')).toEqual({
    ...{ code: 3, stdout: '' },
    stderr: 'opm: there is no project "nobody": see `opm projects list`\n',
  });
});

test('variables that are not of the stores are not read, and if the queue is away, the exit code is 4', async () => {
  const file = join(directory, 'away.ndjson');
  await writeFile(file, '{"customerId":1,"customerPhone":"+1"}\n');
  const run = (env: NodeJS.ProcessEnv) =>
    runOpm(['customers', 'import', file, '--force', '--project', PROJECT], { ...backend.env, ...env });
  expect(await run({ LOG_LEVEL: 'verbose' })).toMatchObject({ code: 0, stderr: '' });
  expect(await run({ REDIS_URL: 'redis://127.0.0.1:1' })).toEqual({
    ...{ code: 4, stdout: '' },
    stderr: `opm: ${file}: cannot reach the queue: connect ECONNREFUSED 127.0.0.1:1\n`,
  });
});

test('rejected lines replace only a file of rejected lines, and only at the end', async () => {
  const file = join(directory, 'rejected.ndjson');
  await writeFile(file, '{"customerId":1}\n');
  const rejectedFile = `${file}.rejected.ndjson`;
  await link(file, `${file}.same`);
  await writeFile(`${file}.other`, 'precious');
  for (const [rejected, message] of [
    [file, `${file} is the file to import: choose another one with --rejected`],
    [`${file}.same`, `${file}.same is the file to import: choose another one with --rejected`],
    [
      `${file}.other`,
      `${file}.other already exists and does not hold rejected lines: choose another one with --rejected`,
    ],
    [directory, `${directory} already exists and does not hold rejected lines: choose another one with --rejected`],
    ['/nowhere/rejected', '/nowhere/rejected cannot be written: ENOENT'],
  ] as const) {
    const outcome = await opmImport(file, '--rejected', rejected);
    expect(outcome).toEqual({ code: 1, stdout: '', stderr: `opm: ${message}\n` });
  }
  expect(await readFile(file, 'utf8')).toBe('{"customerId":1}\n');
  expect(await readFile(`${file}.other`, 'utf8')).toBe('precious');

  expect((await opmImport(file)).stdout).toMatch(`1 line rejected: see ${rejectedFile}.`);
  const rejects = await readFile(rejectedFile, 'utf8');
  expect((await opmImport(file, '--format', 'csv')).stderr).toMatch('invalid CSV from line 1');
  expect(await readFile(rejectedFile, 'utf8')).toBe(rejects);
  await writeFile(file, '{}\n{}\n');
  expect((await opmImport(file)).code).toBe(1);
  expect((await readFile(rejectedFile, 'utf8')).split('\n')).toHaveLength(3);
  await writeFile(file, '');
  expect((await opmImport(file)).code).toBe(0);
  expect((await readdir(directory)).filter((name) => name.startsWith(`${basename(file)}.`))).toEqual([
    `${basename(file)}.other`,
    `${basename(file)}.same`,
  ]);
});

/** Linux has a device that is always full, and a file that opens but cannot be read. */
test.each([
  ['an export to a full disk', 'export > /dev/full', 'the export cannot be written: ENOSPC'],
  [
    'a file that cannot be read',
    'import /proc/self/mem --force --format ndjson --as-of 2020-01-01 --rejected rejected',
    '/proc/self/mem: cannot be read: EIO',
  ],
  [
    'a CSV file that cannot be read',
    'import /proc/self/mem --force --format csv --as-of 2020-01-01 --rejected rejected',
    '/proc/self/mem: cannot be read: EIO',
  ],
])('one line names the problem of %s', async (_, command, message) => {
  const line = `node ${resolve('apps/cli/bin/opm.js')} customers ${command} --project ${PROJECT}`;
  const run = promisify(execFile)('bash', ['-c', line], { cwd: directory, env: { ...process.env, ...backend.env } });
  await expect(run).rejects.toMatchObject({ code: 1, stdout: '', stderr: `opm: ${message}\n` });
});
