import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { acceptAll, type StubServer, startStubServer } from './stub-server.js';

const PACKAGE = join(import.meta.dirname, '..');
const ROOT = join(PACKAGE, '../..');

/** The oldest version that the package supports. The npm package of this name contains the Node.js binary. */
const OLDEST = { name: `node-${process.platform}-${process.arch}`, version: '18.20.8' };

const run = (program: string, args: string[], cwd: string) =>
  promisify(execFile)(program, args, { cwd, timeout: 600_000 });

/** A partner's program: an empty directory with the packed file. */
let folder: string;
let server: StubServer;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'opm-client-'));
  server = await startStubServer((request) =>
    request.method === 'GET' ? { status: 200, body: { statusCode: 200, message: 'pong' } } : acceptAll(request),
  );
  await writeFile(join(folder, 'package.json'), '{}');
  await run('npm', ['pack', '--silent', PACKAGE], folder);
  const docs = [join(PACKAGE, 'README.md'), join(ROOT, 'docs/partners.md')];
  for (const doc of docs) {
    const [, file = ''] = /npm install (\.\/\S+\.tgz)/.exec(readFileSync(doc, 'utf8')) ?? [];
    await run('npm', ['install', '--offline', '--no-audit', '--no-fund', file], folder);
  }
});
afterAll(async () => {
  await server?.close();
  await rm(folder, { recursive: true, force: true });
});

test('the packed file may be published, installs as the documents say, and has no dependency and no other file', async () => {
  const installed = join(folder, 'node_modules');
  const visible = (names: string[]) => names.filter((name) => !name.startsWith('.'));
  expect(visible(await readdir(installed))).toEqual(['@opm']);
  const files = ['CHANGELOG.md', 'LICENSE', 'README.md', 'dist', 'package.json'];
  expect(await readdir(join(installed, '@opm/client'))).toEqual(files);
  const dist = await readdir(join(installed, '@opm/client/dist'));
  expect(dist.filter((name) => !/^[\w-]+(\.js|\.d\.ts)$|^package\.json$/.test(name))).toEqual([]);
  const manifest = JSON.parse(readFileSync(join(installed, '@opm/client/package.json'), 'utf8'));
  expect(manifest.private).toBeUndefined();
  expect(readFileSync(join(PACKAGE, 'CHANGELOG.md'), 'utf8')).toContain(`\n## ${manifest.version}\n`);
});

describe.each([
  ['the Node.js of the tests', async () => process.execPath],
  ['Node.js 18', installOldestNode],
])('on %s,', (_, findNode) => {
  const send = `const client = new OpmClient({ url: process.argv.at(-1), apiKey: 'key' });
    const all = Array.from({ length: 200 }, (_, customerId) => ({ customerId, customerPhone: '1' }));
    const results = await Promise.all(all.map((customer) => client.send(customer)));
    await client.ping();
    await client.close();
    console.log(results.every(({ created }) => created), Object.keys(require('@opm/client')).length, require('@opm/client').OpmError === OpmError);`;

  test.each([
    [
      'import',
      'example.mjs',
      `import { createRequire } from 'node:module';
       import { OpmClient, OpmError } from '@opm/client';
       const require = createRequire(import.meta.url);
       ${send}`,
    ],
    ['require', 'example.cjs', `const { OpmClient, OpmError } = require('@opm/client'); (async () => { ${send} })();`],
  ])('the client works with %s, and both get the same classes', async (_, file, code) => {
    const node = await findNode();
    await writeFile(join(folder, file), code);
    const { stdout, stderr } = await run(node, [file, server.url], folder);
    expect({ stdout, stderr }).toEqual({ stdout: 'true 11 true\n', stderr: '' });
  });
});

/** Keeps it in `node_modules/.cache`, so that only the first run needs the registry. */
async function installOldestNode(): Promise<string> {
  const place = join(ROOT, 'node_modules/.cache', `${OLDEST.name}-${OLDEST.version}`);
  const node = join(place, 'node_modules', OLDEST.name, 'bin/node');
  if (!existsSync(node)) {
    await mkdir(place, { recursive: true });
    const spec = `${OLDEST.name}@${OLDEST.version}`;
    await run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--prefix', place, spec], place);
  }
  expect((await run(node, ['--version'], place)).stdout).toBe(`v${OLDEST.version}\n`);
  return node;
}

const PROGRAM = `import { type Customer, OpmClient, type OpmClientOptions, OpmError, type RefusedEntry } from '@opm/client';

export async function main(options: OpmClientOptions, customers: readonly Customer[]): Promise<string[]> {
  const client = new OpmClient({ ...options, compress: false });
  const lines: string[] = [];
  for (const { customerId, ...fields } of customers) {
    try {
      const { created, receipt } = await client.send({ customerId, ...fields });
      if (receipt === undefined) continue;
      const answer = await client.receiptState(customerId, receipt);
      lines.push(answer.state === 'refused' ? answer.refused.code : String(created));
    } catch (error) {
      if (error instanceof OpmError) lines.push(error.requestId ?? error.message);
    }
  }
  const found = await client.get(1);
  const refused: RefusedEntry[] = found?.refused ?? [];
  for await (const entry of client.refused({ since: new Date() })) refused.push(entry);
  const { erased } = await client.erase('1');
  await client.close({ timeoutMs: 1_000 });
  return [...lines, ...refused.map(({ field }) => field ?? ''), String(erased)];
}

// @ts-expect-error a customer id is a string or a number
export const wrong: Customer = { customerId: true };
`;
const WITH_DOM = `import { OpmClient } from '@opm/client';
export const pinged = new OpmClient({ url: 'http://_', apiKey: '_' }).ping({ signal: AbortSignal.timeout(1_000) });
`;

describe.each([
  ['TypeScript 5', 'docs/examples/typescript/node_modules/typescript/bin/tsc'],
  ['TypeScript 7', 'node_modules/typescript/bin/tsc'],
])('a strict project without @types/node compiles with %s:', (_, compiler) => {
  test.each([
    ['for Node.js', { module: 'nodenext' }, ['es2022']],
    ['for a bundler', { module: 'esnext', moduleResolution: 'bundler' }, ['es2018']],
    ['with the DOM', { module: 'nodenext' }, ['es2022', 'dom']],
  ])('%s', async (_, options, lib) => {
    const place = await mkdtemp(join(folder, 'types-'));
    await writeFile(join(place, 'module.mts'), PROGRAM);
    await writeFile(join(place, 'common.cts'), PROGRAM);
    if (lib.includes('dom')) await writeFile(join(place, 'dom.mts'), WITH_DOM);
    const strict = { strict: true, skipLibCheck: false, exactOptionalPropertyTypes: true, noEmit: true };
    const compilerOptions = { ...strict, target: 'es2022', types: [], lib, ...options };
    await writeFile(join(place, 'tsconfig.json'), JSON.stringify({ compilerOptions }));
    const printed = await run(process.execPath, [join(ROOT, compiler), '--project', place], place).catch(
      (error) => error,
    );
    expect(printed).toMatchObject({ stdout: '' });
  });
});
