import { createHash, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createTestDatabase, query, type TestDatabase } from '@opm/testkit';
import { BUILT_IN_OPERATOR, createStore, type Operators, type Store } from '../src/index.js';

const PASSWORD = 'correct horse battery';
const ada = { name: 'ada', role: 'operator', mayReveal: true } as const;

let database: TestDatabase;
let store: Store;
let operators: Operators;

beforeAll(async () => {
  database = await createTestDatabase();
  store = createStore({ databaseUrl: database.url, applicationName: 'test' });
  operators = store.operators;
});
afterAll(async () => {
  await store.close();
  await database.drop();
});
beforeEach(async () => {
  await query(database.url, 'DELETE FROM operators');
  await query(database.url, 'DELETE FROM operator_sessions');
});

const drawTokenHash = () => createHash('sha256').update(randomBytes(32)).digest('hex');
const logIn = (name: string, password = PASSWORD, tokenHash = drawTokenHash()) =>
  operators.logIn({ name, password, tokenHash });

/** @returns the hash of a session's token */
async function openSession(name: string): Promise<string> {
  const tokenHash = drawTokenHash();
  expect(await logIn(name, PASSWORD, tokenHash)).toMatchObject({ name });
  return tokenHash;
}

describe('a stored operator', () => {
  test('logs in with the password, and with no other', async () => {
    await operators.add({ ...ada, password: PASSWORD });
    await operators.add({ name: 'bob', role: 'viewer', mayReveal: false, password: `${PASSWORD}!` });
    expect(await logIn('ada')).toEqual(ada);
    for (const [name, password] of [
      ['ada', `${PASSWORD}!`],
      ['ada', ''],
      ['bob', PASSWORD],
      ['nobody', PASSWORD],
      ['ADA', PASSWORD],
      ['ada\0', PASSWORD],
    ]) {
      expect({ name, password, operator: await logIn(name as string, password) }).toEqual({ name, password });
    }
    expect(await query(database.url, 'SELECT count(*)::integer FROM operator_sessions')).toEqual([{ count: 1 }]);
  });

  test('has a password of which only a salted, self-describing scrypt hash is stored', async () => {
    for (const name of ['ada', 'bob']) await operators.add({ ...ada, name, password: PASSWORD });
    const rows = await query<{ password_hash: string }>(database.url, 'SELECT password_hash FROM operators');
    const hashes = rows.map((row) => row.password_hash);
    expect(hashes[0]).toMatch(/^scrypt\$N=131072,r=8,p=1\$[\w-]{22}\$[\w-]{43}$/);
    expect(new Set(hashes).size).toBe(2);
  });

  test('logs in with a hash of other parameters, so that they can change later', async () => {
    await operators.add({ ...ada, password: PASSWORD });
    const { scryptSync } = await import('node:crypto');
    const key = scryptSync(PASSWORD, Buffer.from('salt'), 32, { N: 1_024, r: 8, p: 2 }).toString('base64url');
    const text = `UPDATE operators SET password_hash = 'scrypt$N=1024,r=8,p=2$' || $1 || '$' || $2`;
    await query(database.url, text, [Buffer.from('salt').toString('base64url'), key]);
    expect([await logIn('ada'), await logIn('ada', 'wrong password')]).toEqual([ada, undefined]);
  });

  test('may type the password in another Unicode form', async () => {
    await operators.add({ ...ada, password: 'Übergrößenträger' });
    expect(await logIn('ada', 'Übergrößenträger'.normalize('NFD'))).toEqual(ada);
  });

  test.each(['admin', '', 'Ada', '-', 'ada lovelace', 'a'.repeat(65), '.a', 'a\n'])(
    'cannot be called %j',
    async (name) => {
      await expect(operators.add({ ...ada, name, password: PASSWORD })).rejects.toThrow(/name/);
    },
  );

  test('has a name of its own and a password of at least 12 characters', async () => {
    await operators.add({ ...ada, password: PASSWORD });
    await expect(operators.add({ ...ada, password: PASSWORD })).rejects.toThrow(
      'an operator named "ada" already exists',
    );
    await expect(operators.setPassword('ada', '👩‍🚀short')).rejects.toThrow('at least 12 characters');
    await expect(operators.add({ ...ada, name: 'bob', password: 'x'.repeat(11) })).rejects.toThrow(
      'at least 12 characters',
    );
    expect(await operators.list()).toEqual([{ ...ada, createdAt: expect.any(Date) }]);
  });

  test.each(["role = 'root'", "name = 'admin'"])('is rejected by the table itself with %s', async (change) => {
    await operators.add({ ...ada, password: PASSWORD });
    await expect(query(database.url, `UPDATE operators SET ${change}`)).rejects.toThrow(/violates check constraint/);
  });
});

test('an admin is added together with the end of the sessions of CONSOLE_PASSWORD, or not at all', async () => {
  await query(database.url, 'ALTER TABLE operator_sessions RENAME TO elsewhere');
  const added = operators.add({ ...ada, role: 'admin', password: PASSWORD });
  await expect(
    added.finally(() => query(database.url, 'ALTER TABLE elsewhere RENAME TO operator_sessions')),
  ).rejects.toThrow('does not exist');
  expect(await operators.list()).toEqual([]);
});

test('an unknown name takes as long as a wrong password', async () => {
  await operators.add({ ...ada, password: PASSWORD });
  const measure = async (name: string) => {
    const { user } = process.cpuUsage();
    await logIn(name, 'a wrong password');
    return process.cpuUsage().user - user;
  };
  const known: number[] = [];
  const unknown: number[] = [];
  for (let i = 0; i < 4; i++) {
    known.push(await measure('ada'));
    unknown.push(await measure('nobody'));
  }
  // The least, because a measure includes whatever else this process does.
  const ratio = Math.min(...unknown) / Math.min(...known);
  expect(ratio).toBeGreaterThan(0.5);
  expect(ratio).toBeLessThan(2);
});

describe('a session', () => {
  test('belongs to its operator, and a token that was never issued to nobody', async () => {
    await operators.add({ ...ada, password: PASSWORD });
    const tokenHash = await openSession('ada');
    expect([await operators.findSession(tokenHash), await operators.findSession(drawTokenHash())]).toEqual([
      ada,
      undefined,
    ]);
  });

  test.each<[string, () => Promise<unknown>]>([
    ['the operator is removed', () => operators.remove('ada')],
    ['the role changes', () => operators.setRole('ada', { role: 'viewer', mayReveal: true })],
    ['the right to reveal changes', () => operators.setRole('ada', { role: 'operator', mayReveal: false })],
    ['the password changes', () => operators.setPassword('ada', `new ${PASSWORD}`)],
    ['12 hours are over', () => query(database.url, `UPDATE operator_sessions SET expires_at = now()`)],
  ])('ends when %s', async (_, change) => {
    await operators.add({ ...ada, password: PASSWORD });
    const [first, second] = [await openSession('ada'), await openSession('ada')];
    await change();
    expect([await operators.findSession(first), await operators.findSession(second)]).toEqual([undefined, undefined]);
  });

  test('lasts 12 hours, and ends alone', async () => {
    await operators.add({ ...ada, password: PASSWORD });
    const [first, second] = [await openSession('ada'), await openSession('ada')];
    const text = `SELECT extract(epoch FROM expires_at - created_at)::integer AS seconds FROM operator_sessions`;
    expect(await query(database.url, text)).toEqual([{ seconds: 43_200 }, { seconds: 43_200 }]);
    await operators.endSession(first);
    expect([await operators.findSession(first), await operators.findSession(second)]).toEqual([undefined, ada]);
  });

  test('is not opened with a password that changes while it is checked', async () => {
    await operators.add({ ...ada, password: PASSWORD });
    const tokenHashes = Array.from({ length: 3 }, drawTokenHash);
    const changed = operators.setPassword('ada', `new ${PASSWORD}`);
    await Promise.all([...tokenHashes.map((tokenHash) => logIn('ada', PASSWORD, tokenHash)), changed]);
    const sessions = await Promise.all(tokenHashes.map(operators.findSession));
    expect(sessions).toEqual([undefined, undefined, undefined]);
  });

  test('of CONSOLE_PASSWORD opens and lasts only while no stored operator is an admin', async () => {
    const [before, after, again] = [drawTokenHash(), drawTokenHash(), drawTokenHash()];
    await operators.add({ ...ada, password: PASSWORD });
    expect([await operators.hasAdmin(), await operators.logInBuiltIn(before)]).toEqual([false, true]);
    expect(await operators.findSession(before)).toEqual(BUILT_IN_OPERATOR);

    await operators.setRole('ada', { role: 'admin', mayReveal: false });
    expect([await operators.hasAdmin(), await operators.logInBuiltIn(after)]).toEqual([true, false]);
    expect(await operators.findSession(before)).toBeUndefined();

    await operators.remove('ada');
    expect([await operators.hasAdmin(), await operators.logInBuiltIn(again)]).toEqual([false, true]);
    expect(await operators.findSession(before)).toBeUndefined();
    await operators.add({ ...ada, role: 'admin', password: PASSWORD });
    expect(await operators.findSession(again)).toBeUndefined();
  });
});

test.each<[string, (tokenHash: string) => Promise<unknown>]>([
  ['by name', (tokenHash) => logIn('ada', PASSWORD, tokenHash)],
  ['with CONSOLE_PASSWORD', (tokenHash) => operators.logInBuiltIn(tokenHash)],
])('a login %s removes the sessions that have expired', async (_, open) => {
  await operators.add({ ...ada, password: PASSWORD });
  await openSession('ada');
  await query(database.url, 'UPDATE operator_sessions SET expires_at = now()');
  const kept = await openSession('ada');
  const opened = drawTokenHash();
  await open(opened);
  const rows = await query<{ hash: string }>(
    database.url,
    `SELECT encode(token_hash, 'hex') AS hash FROM operator_sessions`,
  );
  expect(rows.map(({ hash }) => hash).sort()).toEqual([kept, opened].sort());
});

test('of two admins that are removed and demoted at once, one stays, if the last admin is to be kept', async () => {
  const keepsAdmin = { keepsAdmin: true };
  const demote = (name: string) => operators.setRole(name, { role: 'viewer', mayReveal: false }, keepsAdmin);
  for (let round = 0; round < 5; round++) {
    const admins = `INSERT INTO operators (name, role, password_hash) VALUES ('ada', 'admin', ''), ('grace', 'admin', '')`;
    await query(database.url, admins);
    const changes = await Promise.allSettled([demote('ada'), operators.remove('grace', keepsAdmin)]);
    expect(changes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect((await operators.list()).filter(({ role }) => role === 'admin')).toHaveLength(1);
    for (const name of ['ada', 'grace']) await operators.remove(name);
  }
  await expect(demote('nobody')).resolves.toBe(false);
});

test('a change of an operator who does not exist says so', async () => {
  expect([
    await operators.remove('nobody'),
    await operators.setRole('nobody', { role: 'viewer', mayReveal: false }),
    await operators.setPassword('nobody', PASSWORD),
    await operators.find('nobody'),
  ]).toEqual([false, false, false, undefined]);
});
