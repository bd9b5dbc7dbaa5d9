import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { createTestDatabase, OPM, query, runOpm, type TestDatabase } from '@opm/testkit';

const PASSWORD = 'a password of Ada';

let database: TestDatabase;
let store: Store;

beforeAll(async () => {
  database = await createTestDatabase();
  store = createStore({ databaseUrl: database.url, applicationName: 'test' });
});
afterAll(async () => {
  await store.close();
  await database.drop();
});
beforeEach(() => query(database.url, 'TRUNCATE operators, operator_sessions'));

const opm = (...args: string[]) => runOpm(['operators', ...args], { DATABASE_URL: database.url });
const opmJson = async (...args: string[]) => JSON.parse((await opm(...args, '--json')).stdout);
const canLogIn = async (name: string, password: string, tokenHash = '00') =>
  (await store.operators.logIn({ name, password, tokenHash })) !== undefined;

/** Runs the command with this text on its stdin. */
function opmWithInput(input: string, ...args: string[]) {
  const env = { ...process.env, DATABASE_URL: database.url };
  const running = promisify(execFile)(process.execPath, [OPM, 'operators', ...args], { env });
  running.child.stdin?.end(input);
  return running.then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    ({ code, stdout, stderr }) => ({ code, stdout, stderr }),
  );
}

describe('a generated password', () => {
  test('is printed once, and opens the console', async () => {
    const { stdout } = await opm('add', 'ada', '--role', 'operator', '--reveal');
    const [, password = ''] =
      /^Added ada, role operator, may reveal data\.\nPassword, shown only once: (\S{20})\n$/.exec(stdout) ?? [];
    expect(await canLogIn('ada', password)).toBe(true);
    const list = await opm('list');
    expect(list.stdout).toMatch(/^name +role +mayReveal +createdAt\nada +operator +true +20\S+Z\n$/);
    expect(await query(database.url, `SELECT FROM operators WHERE operators::text LIKE $1`, [`%${password}%`])).toEqual(
      [],
    );
  });

  test('replaces the one before, and ends the sessions', async () => {
    const { password } = await opmJson('add', 'ada', '--role', 'viewer');
    expect(await canLogIn('ada', password, 'a1')).toBe(true);
    const changed = await opmJson('password', 'ada');
    expect(changed).toEqual({ name: 'ada', password: expect.stringMatching(/^\S{20}$/) });
    expect(await store.operators.findSession('a1')).toBeUndefined();
    expect([await canLogIn('ada', password), await canLogIn('ada', changed.password)]).toEqual([false, true]);
  });
});

test.each([PASSWORD, `${PASSWORD}\n`, `${PASSWORD}\r\n`, `${PASSWORD}\nanother line\n`])(
  'a password on stdin is its first line, and is not printed: %j',
  async (input) => {
    const { code, stdout, stderr } = await opmWithInput(input, 'add', 'ada', '--role', 'viewer', '--password-stdin');
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: 'Added ada, role viewer.\n', stderr: '' });
    expect(await canLogIn('ada', PASSWORD)).toBe(true);
  },
);

test('a role says what the operator may do; whether data is revealed changes only if asked', async () => {
  await opm('add', 'ada', '--role', 'viewer', '--reveal');
  expect(await opmJson('role', 'ada', 'operator')).toEqual({ name: 'ada', role: 'operator', mayReveal: true });
  expect(await opmJson('role', 'ada', 'operator', '--no-reveal')).toMatchObject({ mayReveal: false });
  expect(await opmJson('role', 'ada', 'viewer', '--reveal')).toMatchObject({ role: 'viewer', mayReveal: true });
  expect(await store.operators.find('ada')).toEqual({ name: 'ada', role: 'viewer', mayReveal: true });
});

test('the output says when CONSOLE_PASSWORD is refused, and when it is accepted again', async () => {
  const refused = 'CONSOLE_PASSWORD is not accepted any more.';
  const accepted = 'No operator is an admin: CONSOLE_PASSWORD is accepted again.';
  expect((await opm('add', 'ada', '--role', 'admin')).stdout).toContain(refused);
  expect((await opm('add', 'bob', '--role', 'admin')).stdout).not.toContain('CONSOLE_PASSWORD');
  expect((await opm('role', 'bob', 'viewer')).stdout).not.toContain('CONSOLE_PASSWORD');
  expect((await opm('role', 'ada', 'viewer')).stdout).toContain(accepted);
  expect((await opm('role', 'bob', 'admin')).stdout).toContain(refused);
  expect((await opm('remove', 'bob')).stdout).toBe(`Removed bob.\n${accepted}\n`);
});

test.each<[code: number, stderr: RegExp, args: string[]]>([
  [1, /^opm: an operator named "ada" already exists\n$/, ['add', 'ada', '--role', 'viewer']],
  [1, /^opm: the name "admin" belongs to CONSOLE_PASSWORD\n$/, ['add', 'admin', '--role', 'admin']],
  [1, /^opm: an operator name must have 1 to 64 characters/, ['add', 'Ada', '--role', 'admin']],
  [2, /required option '--role <role>' not specified/, ['add', 'bob']],
  [2, /Allowed choices are viewer, operator, admin/, ['add', 'bob', '--role', 'root']],
  [2, /Allowed choices are viewer, operator, admin/, ['role', 'ada', 'root']],
  [3, /^opm: there is no operator "bob": see `opm operators list`\n$/, ['role', 'bob', 'viewer']],
  [3, /^opm: there is no operator "bob"/, ['password', 'bob']],
  [3, /^opm: there is no operator "bob"/, ['remove', 'bob']],
])('a wrong command exits with %d and one clear line: %s', async (code, stderr, args) => {
  await store.operators.add({ name: 'ada', role: 'viewer', mayReveal: false, password: PASSWORD });
  expect(await opm(...args)).toEqual({ code, stdout: '', stderr: expect.stringMatching(stderr) });
  expect(await store.operators.list()).toHaveLength(1);
});

test.each<[command: string, needed: string[]]>([
  ['operators list', ['DATABASE_URL', 'REDIS_URL']],
  ['burst', ['OPM_KEY']],
  ['up', ['DATABASE_URL', 'REDIS_URL', 'CONSOLE_PASSWORD']],
])('`opm %s` reads the files of the secrets that it may use: %j', async (command, needed) => {
  const secrets = ['DATABASE_URL', 'REDIS_URL', 'CONSOLE_PASSWORD', 'OPM_KEY'];
  const files = Object.fromEntries(
    secrets.flatMap((name) => [
      ...[
        [name, ''],
        [`${name}_FILE`, '/absent'],
      ],
    ]),
  );
  const { code, stderr } = await runOpm(command.split(' '), files);
  const why = needed.map((name) => `${name}_FILE: /absent does not exist\n`).join('');
  expect([code, stderr]).toEqual([1, `opm: ${why}`]);
});

test('the commands of the guide run as printed', async () => {
  const guide = await readFile(fileURLToPath(new URL('../../../docs/console.md', import.meta.url)), 'utf8');
  const commands = [...guide.matchAll(/^npx opm ((?:operators|audit) .*)$/gm)].map(([, command]) => command as string);
  expect(commands).toHaveLength(6);
  for (const command of commands) {
    const { code, stderr } = await runOpm(command.split(' '), { DATABASE_URL: database.url });
    expect({ command, code, stderr }).toEqual({ command, code: 0, stderr: '' });
  }
});

test('a password on stdin that is too short is refused', async () => {
  const { code, stderr } = await opmWithInput('short\n', 'add', 'ada', '--role', 'viewer', '--password-stdin');
  expect([code, stderr]).toEqual([1, 'opm: a password must have at least 12 characters\n']);
  expect(await store.operators.list()).toEqual([]);
});
