import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, OPM, query, runOpm } from '@opm/testkit';

/** Moves the cursor and sets the title, with ESC and with C1; deletes; reverses the text direction; ends the line. */
const HOSTILE = 'a\x1b[2J\x9b2J\x1b]0;t\x07\x7f\b\r\x85\u202eb\u2066c\u200f\u2028d\u061c\ne';
/** Characters that a terminal interprets, except the line feed. */
const INTERPRETED = /(?!\n)[\p{Cc}\p{Bidi_Control}\u2028\u2029]/u;
const PRELOAD = 'data:text/javascript,process.stdout.isTTY%20=%20process.stderr.isTTY%20=%20true';
const FORMULAS = ['=1+1', '+41 44', '-1', '@sum', '\t=1', '\r=1', 'plain', "'=1"];

let backend: Backend;
let store: Store;
let letterId: string;

beforeAll(async () => {
  backend = await createBackend(undefined);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  for (const name of ['acme', 'formulas']) await store.projects.create(name);
  await store.operators.add({ name: 'anna', role: 'viewer', mayReveal: false, password: 'a'.repeat(20) });
  const insert = `INSERT INTO customers (project_id, customer_id, email, first_name, created_at, updated_at)
    SELECT id, $2, 'a@example.com', $3, now(), now() FROM projects WHERE name = $1`;
  await query(backend.databaseUrl, insert, ['acme', 'c', HOSTILE]);
  for (const [i, value] of FORMULAS.entries()) await query(backend.databaseUrl, insert, ['formulas', `c${i}`, value]);
  await query(backend.databaseUrl, `INSERT INTO projects (name) VALUES ($1)`, [HOSTILE]);
  const letter = `INSERT INTO dead_letters (project_id, customer_id, version, payload, error) VALUES (1, $1, 1, $2, $1) RETURNING id`;
  const [row] = await query<{ id: string }>(backend.databaseUrl, letter, [
    HOSTILE,
    JSON.stringify({ fields: HOSTILE }),
  ]);
  letterId = row?.id ?? '';
});
afterAll(async () => {
  await store.close();
  await backend.drop();
});

const opm = (...args: string[]) => runOpm(args, backend.env);
const opmOnTerminal = (...args: string[]) => runOpm(args, { ...backend.env, NODE_OPTIONS: `--import ${PRELOAD}` });

test.each([
  ['customers get acme c'],
  ['customers export --project acme --format csv'],
  ['customers export --project acme --format ndjson'],
  ['dead-letters list'],
  ['dead-letters show ID'],
  ['dead-letters count'],
  ['projects list'],
])('`opm %s` sends a terminal no character that it interprets', async (command) => {
  const { code, stdout, stderr } = await opmOnTerminal(...command.replace('ID', letterId).split(' '));
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).not.toMatch(INTERPRETED);
});

test('an error message holds no character that a terminal interprets', async () => {
  const { code, stdout, stderr } = await opmOnTerminal('customers', 'get', HOSTILE, HOSTILE);
  expect([code, stdout]).toEqual([3, '']);
  expect(stderr).toMatch('has no customer');
  expect(stderr).not.toMatch(INTERPRETED);
});

test.each([
  ['customers get acme c', ({ firstName }: Record<string, unknown>) => firstName],
  ['dead-letters show ID', ({ error }: Record<string, unknown>) => error],
  ['projects list', (list: Record<string, unknown>) => (list as unknown as { name: string }[]).at(-1)?.name],
])('`opm %s --json` prints the whole value, escaped', async (command, read) => {
  const { stdout } = await opm(...command.replace('ID', letterId).split(' '), '--json');
  expect(stdout).not.toMatch(INTERPRETED);
  expect(read(JSON.parse(stdout))).toBe(HOSTILE);
});

test('an exported file holds the whole value, escaped in NDJSON and as it is in CSV', async () => {
  const args = ['customers', 'export', '--project', 'acme', '--format'];
  const { stdout: ndjson } = await opm(...args, 'ndjson');
  expect(ndjson).not.toMatch(INTERPRETED);
  expect(JSON.parse(ndjson).customerFirstName).toBe(HOSTILE);
  expect((await opm(...args, 'csv')).stdout).toContain(HOSTILE);
});

test('with --escape-formulas no CSV cell begins like a formula, and all other cells are unchanged', async () => {
  const read = async (...args: string[]) => {
    const { stdout } = await opm('customers', 'export', '--project', 'formulas', '--format', 'csv', ...args);
    return FORMULAS.map((_, i) => new RegExp(`^c${i},a@example.com,,"?([^,"]*)`, 'm').exec(stdout)?.[1]);
  };
  expect(await read()).toEqual(FORMULAS);
  expect(await read('--escape-formulas')).toEqual(
    FORMULAS.map((cell) => (/^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell)),
  );
  const refused = await opm('customers', 'export', '--project', 'formulas', '--escape-formulas');
  expect(refused).toEqual({ code: 2, stdout: '', stderr: 'opm: --escape-formulas requires --format csv\n' });
});

test('with --json, an error is a line of JSON with its kind, and the exit code tells the kind', async () => {
  const read = async (...args: string[]) => {
    const { code, stdout, stderr } = await opm(...args, '--json');
    return { code, stdout, ...JSON.parse(stderr) };
  };
  const unreachable = { DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/nothing' };
  expect(await read('projects', 'stats', 'nobody')).toEqual({
    ...{ code: 3, stdout: '', error: 'not-found' },
    message: 'there is no project "nobody": see `opm projects list`',
  });
  expect(await read('projects', 'limits', 'acme', '--rate', 'many')).toMatchObject({ code: 2, error: 'usage' });
  expect(await read('projects', 'lst')).toMatchObject({
    code: 2,
    error: 'usage',
    message: expect.stringContaining('lst'),
  });
  expect(await read('dead-letters', 'list', '--limit', '0')).toMatchObject({ code: 2, error: 'usage' });
  expect(await read('projects', 'create', 'acme')).toMatchObject({ code: 1, error: 'failed' });
  for (const command of [['projects', 'list'], ['migrate']]) {
    const { code, stderr } = await runOpm([...command, '--json'], { ...backend.env, ...unreachable });
    expect([code, JSON.parse(stderr).error]).toEqual([4, 'unavailable']);
  }
});

test('--help lists the exit codes', async () => {
  const { code, stdout } = await opm('--help');
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^Exit codes: 1 failed, 2 wrong usage, 3 not found, 4 a store, the workers or the stack are not available, 130 stopped\.$/m,
  );
});

test('a mistyped command gets a short answer that names the right one', async () => {
  const { code, stderr } = await opm('projcts');
  expect([code, stderr]).toEqual([
    2,
    "error: unknown command 'projcts'\n(Did you mean projects?)\n(add --help for more)\n",
  ]);
});

test('shells complete commands and options', async () => {
  const complete = async (...words: string[]) => {
    const { code, stdout } = await opm('complete', '--', ...words);
    expect(code).toBe(0);
    return stdout.split('\n').flatMap((line) => (line.includes('\t') ? [line.slice(0, line.indexOf('\t'))] : []));
  };
  expect(await complete('dead')).toEqual(['dead-letters']);
  expect(await complete('projects', 'r')).toEqual(['rename', 'resume']);
  expect(await complete('status', '--')).toEqual(['--watch', '--json', '--help']);
  for (const shell of ['bash', 'zsh', 'fish']) {
    expect(await opm('complete', shell)).toMatchObject({ code: 0, stdout: expect.stringContaining('opm complete --') });
  }
  expect(await opm('complete', 'tcsh')).toMatchObject({ code: 2, stdout: '' });
});

test.each([
  ['burst', '--help'],
  ['projects', 'list'],
  ['status', '--watch'],
])('a reader that closes the pipe ends a command silently: opm %s %s', async (...args) => {
  const child = spawn(process.execPath, [OPM, ...args], { env: { ...process.env, ...backend.env } });
  child.stdout.destroy();
  const errors: string[] = [];
  child.stderr.on('data', (data) => errors.push(String(data)));
  const [code] = await once(child, 'close');
  expect([code, errors.join('')]).toEqual([0, '']);
});

/** Runs `opm` on a terminal, where somebody types `answer` once `isAsked` holds for the output. */
async function runOnTerminal(args: string[], isAsked: (output: string) => boolean, answer: string) {
  const command = ['exec', process.execPath, OPM, ...args].join(' ');
  const child = spawn('script', ['-qec', command, '/dev/null'], { env: { ...process.env, ...backend.env } });
  let output = '';
  let hasAsked = false;
  child.stdout.on('data', (data) => {
    output += String(data);
    if (hasAsked || !isAsked(output)) return;
    hasAsked = true;
    child.stdin.write(answer);
  });
  const [code] = await once(child, 'close');
  child.stdin.destroy();
  expect(output).not.toContain('    at '); // a stack trace
  return { code, hasAsked, output };
}
const isQuestion = (output: string) => output.includes('Type yes to go on');

test.each([
  ['customers erase acme c'],
  ['dead-letters discard --all'],
  ['keys revoke acme'],
  ['keys rotate acme --grace 0s'],
  ['operators remove anna'],
  ['restored'],
])('on a terminal, `opm %s` asks first, and changes nothing if the answer is no', async (command) => {
  const tables = ['customers', 'dead_letters', 'api_keys', 'operators', 'audit_log'];
  const read = () =>
    Promise.all(tables.map((table) => query(backend.databaseUrl, `SELECT * FROM ${table} ORDER BY 1, 2`)));
  const before = await read();
  const { code, hasAsked, output } = await runOnTerminal(command.split(' '), isQuestion, 'no\n');
  expect([code, hasAsked]).toEqual([1, true]);
  expect(output).toContain('nothing was changed');
  expect(await read()).toEqual(before);
});

test('a script is not asked, and on a terminal, rotating with a grace period asks nothing', async () => {
  await store.projects.create('rotated');
  expect(await opm('keys', 'rotate', 'rotated', '--grace', '0s')).toMatchObject({ code: 0, stderr: '' });
  for (const flags of [['--grace', '0s', '--yes'], ['--grace', '1h'], []]) {
    const command = ['keys', 'rotate', 'rotated', ...flags];
    expect(await runOnTerminal(command, isQuestion, 'no\n')).toMatchObject({ code: 0, hasAsked: false });
  }
});

test('on a terminal, what destroys something asks first; only `yes` or --yes goes on', async () => {
  const { projectId } = await store.projects.create('asked');
  const revoke = async (answer: string, ...flags: string[]) => {
    const { code, hasAsked } = await runOnTerminal(['keys', 'revoke', 'asked', ...flags], isQuestion, answer);
    const [key] = await store.apiKeys.list(projectId);
    return { code, hasAsked, status: key?.status };
  };
  for (const answer of ['no\n', '\x03', '\x04']) {
    expect(await revoke(answer)).toEqual({ code: 1, hasAsked: true, status: 'active' });
  }
  expect(await revoke('yes\n')).toEqual({ code: 0, hasAsked: true, status: 'revoked' });
  await store.apiKeys.rotate(projectId, { graceMs: 0 });
  expect(await revoke('', '--yes')).toMatchObject({ code: 0, hasAsked: false });
});

test('on a terminal, `opm status --watch` redraws the screen until Ctrl-C, and exits with 0', async () => {
  const toScreens = (output: string) => output.split('\x1b[H\x1b[J').slice(1);
  const hasRedrawn = (output: string) => toScreens(output).length > 1;
  const { code, hasAsked, output } = await runOnTerminal(['status', '--watch'], hasRedrawn, '\x03');
  expect([code, hasAsked]).toEqual([0, true]);
  for (const screen of toScreens(output)) expect(screen).toContain('No ingress reports.');
});
