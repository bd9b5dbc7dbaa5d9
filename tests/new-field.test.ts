import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { type Backend, createBackend, query, startProcess, type TestProcess, waitFor } from '@opm/testkit';

const ROOT = join(import.meta.dirname, '..');
const COPIED = ['apps', 'packages', 'prisma', 'tools', 'prisma.config.ts', 'package.json', 'tsconfig.base.json'];

/** What "Add a field" in CONTRIBUTING.md says, for a field `language`: the text before the new one, and the new one. */
const EDITS: Record<string, [before: string, added: string][]> = {
  'packages/core/src/customer.ts': [["'lastName', 'ip'", ", 'language'"]],
  'packages/contract/src/entry.ts': [
    [
      "example: '203.0.113.7' },\n",
      "language: { property: 'customerLanguage', maxLength: 35, description: 'A tag.', example: 'de-CH' },\n",
    ],
  ],
  'prisma/schema.prisma': [
    ['  ip               String?\n', 'language String?\n'],
    ['@map("ip_version")\n', 'languageVersion BigInt @default(0) @map("language_version")\n'],
  ],
  'packages/client/src/customer.ts': [
    ['  customerIP?: string | null | undefined;\n', 'customerLanguage?: string | null | undefined;\n'],
    ['  customerIP: string | null;\n', 'customerLanguage: string | null;\n'],
  ],
};
const MIGRATION = `ALTER TABLE customers
  ADD COLUMN language TEXT, ADD COLUMN language_version BIGINT NOT NULL DEFAULT 0`;

let copy: string;
let backend: Backend;
const processes: TestProcess[] = [];

beforeAll(async () => {
  copy = await mkdtemp(join(tmpdir(), 'opm-new-field-'));
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
});
afterAll(async () => {
  await Promise.all(processes.map(({ stop }) => stop()));
  await backend.drop();
  await rm(copy, { recursive: true, force: true });
});

/** Copies the sources. The installed packages are linked, but the project's own ones lead to the copy. */
async function copySources(): Promise<void> {
  for (const name of COPIED) {
    const filter = (source: string) => basename(source) !== 'node_modules';
    await cp(join(ROOT, name), join(copy, name), { recursive: true, filter });
  }
  await mkdir(join(copy, 'node_modules'));
  for (const name of await readdir(join(ROOT, 'node_modules'))) {
    if (name === '@opm') await cp(join(ROOT, 'node_modules/@opm'), join(copy, 'node_modules/@opm'), LINKS);
    else if (name !== '.cache') await symlink(join(ROOT, 'node_modules', name), join(copy, 'node_modules', name));
  }
  for (const app of await readdir(join(ROOT, 'apps'))) {
    const own = join('apps', app, 'node_modules');
    await symlink(join(ROOT, own), join(copy, own));
  }
}

const LINKS = { recursive: true, verbatimSymlinks: true };

async function edit(path: string, edits: [before: string, added: string][]): Promise<void> {
  let text = await readFile(join(copy, path), 'utf8');
  for (const [before, added] of edits) {
    expect([path, text.split(before).length]).toEqual([path, 2]);
    text = text.replace(before, () => before + added);
  }
  await writeFile(join(copy, path), text);
}

const env = () => ({ ...process.env, ...backend.env });

async function run(script: string, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [script, ...args], { cwd: copy, env: env() });
  return stdout;
}

async function start(app: 'ingress' | 'worker', readyOutput: RegExp): Promise<TestProcess> {
  const INTERNAL_PORT = String(await findFreePort());
  const started = await startProcess({
    file: join(copy, 'apps', app, 'dist/main.js'),
    env: { ...env(), PORT: '0', HOST: '127.0.0.1', INTERNAL_HOST: '127.0.0.1', INTERNAL_PORT },
    readyOutput,
  });
  processes.push(started);
  return started;
}

test('a new field needs four files and a migration; then partners can send it, and it reaches the row', async () => {
  await copySources();
  for (const [path, edits] of Object.entries(EDITS)) await edit(path, edits);
  await mkdir(join(copy, 'prisma/migrations/99990101000000_language'));
  await writeFile(join(copy, 'prisma/migrations/99990101000000_language/migration.sql'), MIGRATION);

  await run('node_modules/prisma/build/index.js', 'generate');
  await run('node_modules/typescript/bin/tsc', '-b', 'apps/ingress', 'apps/worker', 'apps/cli', 'packages/client');
  await run('apps/cli/bin/opm.js', 'migrate');
  const { apiKey } = JSON.parse(await run('apps/cli/bin/opm.js', 'projects', 'create', 'acme', '--json'));
  const ingress = await start('ingress', /"msg":"accepting entries"/);
  await start('worker', /"msg":"taking jobs"/);

  const url = `http://127.0.0.1:${/"port":(\d+)/.exec(ingress.output())?.[1]}`;
  const headers = { 'x-api-key': apiKey, 'content-type': 'application/json' };
  const name = { customerFirstName: 'Jane', customerLastName: 'Doe' };
  const entry = { customerId: '7519', customerEmail: 'jane@example.com', ...name, customerLanguage: 'de-CH' };
  const post = (body: object) => fetch(`${url}/entry`, { method: 'POST', headers, body: JSON.stringify(body) });
  const created = await post(entry);
  expect(created.status).toBe(201);
  const readRow = async () => (await query(backend.databaseUrl, 'SELECT language, email FROM customers'))[0];
  expect(await waitFor(readRow, { description: 'the row' })).toEqual({ language: 'de-CH', email: 'jane@example.com' });
  const found = await fetch(`${url}/entry/7519`, { headers });
  expect(await found.json()).toMatchObject({ customer: entry });
  const fate = await fetch(`${url}/entry/7519/receipts/${created.headers.get('receipt')}`, { headers });
  expect(await fate.json()).toEqual({ statusCode: 200, state: 'stored' });

  const tooLong = await post({ ...entry, customerLanguage: 'x'.repeat(36) });
  expect([tooLong.status, await tooLong.json()]).toMatchObject([
    400,
    { message: expect.stringContaining('body/customerLanguage') },
  ]);
});
