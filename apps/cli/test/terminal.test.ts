import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, query, runOpm } from '@opm/testkit';

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
  expect([code, stdout]).toEqual([1, '']);
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
  expect(refused).toEqual({ code: 1, stdout: '', stderr: 'opm: --escape-formulas requires --format csv\n' });
});
