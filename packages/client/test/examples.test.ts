import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { OpmClient } from '@opm/client';
import { FAULTS } from '@opm/contract';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, findProgram, startApp, type TestApp, waitFor } from '@opm/testkit';
import { CREATED, LIMITED, REFUSED, type Reaction, startStubServer, toBatchAnswer, UPDATED } from './stub-server.js';

const EXAMPLES = join(import.meta.dirname, '../../../docs/examples');

const findPython = () =>
  findProgram({ title: 'Python', names: ['python3'], aptPackages: ['python3'], otherwise: 'brew install python' });
const findPhp = () =>
  findProgram({ title: 'PHP', names: ['php'], aptPackages: ['php-cli'], otherwise: 'brew install php' });

/** Debian's package of the program alone lacks the library. */
const findDatamodelCodegen = () =>
  findProgram({
    title: 'datamodel-codegen',
    names: ['datamodel-codegen'],
    aptPackages: ['datamodel-codegen', 'python3-datamodel-code-generator'],
    otherwise: 'pip install datamodel-code-generator',
  });

let backend: Backend;
let store: Store;
let project: { projectId: number; apiKey: string };
let ingress: TestApp;
let worker: TestApp;
let folder: string;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  project = await store.projects.create('acme');
  folder = await mkdtemp(join(tmpdir(), 'opm-examples-'));
  [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
});
afterAll(async () => {
  await Promise.all([ingress?.stop(), worker?.stop()]);
  await store?.close();
  await backend?.drop();
  await rm(folder, { recursive: true, force: true });
});

describe.each([
  ['send.py', findPython],
  ['send.php', findPhp],
])('%s', (script, findInterpreter) => {
  let files = 0;

  /** Sends the lines. @returns what the program printed, and the receipts that it kept */
  async function send(lines: string[], { url = ingress.url, apiKey = project.apiKey } = {}) {
    const interpreter = await findInterpreter();
    const [entries, receipts] = ['entries', 'receipts'].map((name) => join(folder, `${name}-${script}-${++files}`));
    await writeFile(entries as string, lines.join('\n'));
    const env = { ...process.env, OPM_URL: url, OPM_KEY: apiKey };
    const args = [join(EXAMPLES, script), entries as string, receipts as string];
    const { code, stdout, stderr } = await new Promise<{ code: unknown; stdout: string; stderr: string }>((resolve) =>
      execFile(interpreter, args, { env, timeout: 600_000 }, (error, stdout, stderr) =>
        resolve({ code: error ? error.code : 0, stdout, stderr }),
      ),
    );
    const kept = await readFile(receipts as string, 'utf8').catch(() => '');
    return {
      code,
      printed: stdout + stderr.replaceAll(entries as string, 'entries'),
      kept: kept
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line)),
    };
  }

  const toLine = (id: number | string) => JSON.stringify({ customerId: `${script} ${id}`, customerPhone: '+41' });

  test('sends a large file, prints the rejected lines, and keeps a receipt of each other line', async () => {
    const lines = Array.from({ length: 2_300 }, (_, i) => toLine(i));
    lines[7] = `${lines[7]}\r`;
    lines[10] = '';
    lines[11] = '{"customerId": "no email"}';
    lines[2_000] = 'no JSON';
    const { code, printed, kept } = await send(lines);
    expect({ code, printed }).toEqual({
      code: 1,
      printed:
        "entries:12: 400 body must have either required property 'customerEmail' or 'customerPhone'\n" +
        'entries:2001: 400 body must be valid JSON\n',
    });
    const accepted = lines.flatMap((_, i) => ([10, 11, 2_000].includes(i) ? [] : [i]));
    expect(kept).toEqual(
      accepted.map((i) => ({
        line: i + 1,
        customerId: `${script} ${i}`,
        receipt: expect.stringMatching(/^[0-9a-z]+$/),
      })),
    );
    const client = new OpmClient({ url: ingress.url, apiKey: project.apiKey });
    for (const { customerId, receipt } of [kept[0], kept.at(-1)]) {
      const isStored = async () => (await client.receiptState(customerId, receipt)).state === 'stored';
      await waitFor(isStored, { description: `${customerId} to be stored` });
    }
    await client.close();
  });

  test('on a limited project, sends everything in the end', async () => {
    const { projectId, apiKey } = await store.projects.create(`limited ${script}`);
    await store.projects.setLimit(projectId, { rate: 10, burst: 10 });
    const { code, kept } = await send(
      Array.from({ length: 25 }, (_, i) => toLine(i)),
      { apiKey },
    );
    expect({ code, lines: kept.map(({ line }) => line) }).toEqual({
      code: 0,
      lines: Array.from(Array(25), (_, i) => i + 1),
    });
  });

  test('repeats what failed transiently, with the same body and key, not before retry-after', async () => {
    const reactions: Reaction[] = [
      'cut',
      { status: 503, body: REFUSED, headers: { 'content-type': 'application/json', 'retry-after': '1' } },
      { status: 502, body: '<html>' },
      toBatchAnswer([CREATED, LIMITED], { 'content-type': 'application/json', 'retry-after': '2' }),
      // Of gateways.
      ...[{ error: 'slow down' }, { message: { text: 'slow down' } }, ['slow down'], 'slow down'].map((body) => ({
        status: 429,
        body,
        headers: { 'content-type': 'application/json', 'retry-after': '0' },
      })),
    ];
    const times: number[] = [];
    const server = await startStubServer((_, count) => {
      times.push(performance.now());
      return reactions[count - 1] ?? toBatchAnswer([CREATED, CREATED], { 'content-type': 'application/json' });
    });
    const { code, kept } = await send([toLine('a'), toLine('b')], { url: server.url });
    await server.close();
    expect({ code, kept }).toMatchObject({ code: 0, kept: [{ line: 1 }, { line: 2 }] });
    expect(server.received).toHaveLength(reactions.length + 1);
    const requests = server.received.map(({ body, headers }) => ({ body, key: headers['idempotency-key'] }));
    expect(requests[0]).toEqual({
      body: `${toLine('a')}\n${toLine('b')}`,
      key: expect.stringMatching(/^[\da-f-]{32,36}$/),
    });
    expect(requests).toEqual(requests.map(() => requests[0]));
    expect((times[2] as number) - (times[1] as number)).toBeGreaterThanOrEqual(999);
    expect((times[4] as number) - (times[3] as number)).toBeGreaterThanOrEqual(1_999);
  });

  test('while too many keys are remembered, goes on without one at once, and then repeats only what is left', async () => {
    const { statusCode: status, retryAfterSeconds, ...body } = FAULTS.TOO_MANY_IDEMPOTENCY_KEYS;
    const json = { 'content-type': 'application/json', 'retry-after': '0' };
    const invalid = { statusCode: 400, error: 'Bad Request', message: 'body must be valid JSON' };
    const answer = (results: { statusCode: number }[], receipts: (string | null)[]): Reaction => ({
      ...{ status: 207, headers: json },
      body: { statusCode: 207, message: 'OK - Multi-Status', results, receipts },
    });
    const reactions: Reaction[] = [
      { status, body, headers: { ...json, 'retry-after': String(retryAfterSeconds) } },
      answer([CREATED, REFUSED, invalid, LIMITED, LIMITED], ['a', null, null, null, null]),
      'cut',
      answer([CREATED, LIMITED, LIMITED], ['b', null, null]),
      { status: LIMITED.statusCode, body: LIMITED, headers: json },
      answer([UPDATED, CREATED], ['d', 'e']),
    ];
    const server = await startStubServer((_, count) => reactions[count - 1] ?? 'cut');
    const [a, b, d, e] = ['a', 'b', 'd', 'e'].map(toLine) as [string, string, string, string];
    const { code, printed, kept } = await send([a, b, '{', d, '', e], { url: server.url });
    await server.close();
    expect({ code, printed }).toEqual({ code: 1, printed: 'entries:3: 400 body must be valid JSON\n' });
    expect(kept.map(({ line, receipt }) => [line, receipt])).toEqual([
      [1, 'a'],
      [2, 'b'],
      [4, 'd'],
      [6, 'e'],
    ]);
    expect(server.received.map(({ body }) => body.split('\n'))).toEqual([
      ...[
        [a, b, '{', d, e],
        [a, b, '{', d, e],
      ],
      ...[
        [b, d, e],
        [b, d, e],
      ],
      ...[
        [d, e],
        [d, e],
      ],
    ]);
    const keys = server.received.map(({ headers }) => headers['idempotency-key']);
    expect(keys).toEqual([expect.any(String), ...Array(5).fill(undefined)]);
  });

  test.each<[string, Reaction, string]>([
    [
      'a wrong key',
      { status: 401, body: { message: 'API key does not exist' }, headers: { 'content-type': 'application/json' } },
      '401 API key does not exist',
    ],
    ['a wrong address', { status: 404, body: '<html>' }, '404 not an answer of the API'],
  ])('ends at once with %s, and says where', async (_, reaction, message) => {
    const server = await startStubServer(() => reaction);
    const { code, printed, kept } = await send(['', toLine('a')], { url: server.url });
    await server.close();
    expect({ code, printed, kept }).toEqual({ code: 2, printed: `gave up at line 2: ${message}\n`, kept: [] });
    expect(server.received).toHaveLength(1);
  });
});

describe('the types that the README generates from /openapi.json', () => {
  let readme: string;
  let place: string;
  const run = async (program: string, args: string[], path = '') => {
    const env = { ...process.env, PATH: `${path}${delimiter}${process.env.PATH}`, OPM_URL: ingress.url };
    return (await promisify(execFile)(program, args, { cwd: place, env, timeout: 600_000 })).stdout;
  };
  beforeAll(async () => {
    readme = await readFile(join(EXAMPLES, 'README.md'), 'utf8');
  });

  test('for TypeScript: the example compiles with them, notices wrong types, and works', async () => {
    place = join(folder, 'typescript');
    await cp(join(EXAMPLES, 'typescript'), place, {
      recursive: true,
      filter: (path) => !/node_modules|opm\.d\.ts$/.test(path.slice(EXAMPLES.length)),
    });
    await symlink(join(EXAMPLES, 'typescript/node_modules'), join(place, 'node_modules')); // in place of `npm install`
    expect(readme).toContain('npm install\nnpm run types\nnpm run compile\n');
    const program = `import { sendEntries } from './send.js';
      const key = crypto.randomUUID();
      const send = (key?: string) =>
        sendEntries('${ingress.url}', '${project.apiKey}', [{ customerId: 'typed', customerEmail: 'jane@example.com' }], key);
      await send(key);
      for (const answer of [await send(key), await send()]) { // the repeat with the key gets the first answer
        const [{ statusCode, message } = { statusCode: 0, message: '' }] = answer.results;
        console.log(answer.accepted, statusCode, message);
      }
      // @ts-expect-error the id is missing
      void (() => sendEntries('', '', [{ customerEmail: 'jane@example.com' }], key));
      // @ts-expect-error wrong type
      void (() => sendEntries('', '', [{ customerId: true, customerEmail: 'jane@example.com' }], key));
      // @ts-expect-error no key
      void (() => sendEntries('', '', []));
      // @ts-expect-error no such property
      void ((answer: import('./send.js').BatchAnswer) => answer.nothing);`;
    await writeFile(join(place, 'main.ts'), program);
    await run('npm', ['run', '--silent', 'types']);
    await run('npm', ['run', '--silent', 'compile']);
    expect(await run(process.execPath, ['dist/main.js'])).toBe('1 201 OK - Created\n1 202 OK - Update accepted\n');
  });

  test('for Python: the module has the types of entry and answers', async () => {
    place = join(folder, 'python');
    await mkdir(place);
    const commands = /^(curl .*)\n(datamodel-codegen .*)$/m.exec(readme) ?? [];
    await findProgram({ title: 'curl', names: ['curl'], aptPackages: ['curl'], otherwise: 'brew install curl' });
    await run('sh', ['-ec', commands[0] ?? 'false'], dirname(await findDatamodelCodegen()));
    const program = `import opm
entry = opm.Entry1(customerId=7519, customerEmail='jane@example.com')
print(entry.customerEmail, 'results' in opm.BatchAnswer.__dataclass_fields__)`;
    expect(await run(await findPython(), ['-c', program])).toBe('jane@example.com True\n');
  });
});
