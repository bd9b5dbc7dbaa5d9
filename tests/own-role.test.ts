import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { grantToAppRole } from '@opm/store';
import { type Backend, createBackend, query, runOpm, startApp, type TestApp, waitFor } from '@opm/testkit';

/** Roles belong to the server, so each run has its own. */
const ROLE = `opm_app_${process.pid}`;
const PASSWORD = `it's $$ "quoted" \\ %41`;

let backend: Backend;
let env: NodeJS.ProcessEnv;
let apps: TestApp[] = [];

const migrate = (password = '', role = ROLE) =>
  runOpm(['migrate', '--app-role', role], { ...backend.env, APP_ROLE_PASSWORD: password });

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  expect(await migrate(PASSWORD)).toMatchObject({ code: 0 });
  const url = new URL(backend.databaseUrl);
  [url.username, url.password] = [ROLE, encodeURIComponent(PASSWORD)];
  env = { ...backend.env, DATABASE_URL: url.href };
});
afterAll(async () => {
  const exits = await Promise.all(apps.map((app) => app.stop()));
  await query(backend.databaseUrl, `DROP OWNED BY ${ROLE}; DROP ROLE ${ROLE}`);
  await backend.drop();
  expect(exits).toEqual(exits.map(() => ({ code: 0, signal: null })));
});

test('processes with a role that owns nothing work, and cannot change a table', async () => {
  const { apiKey } = JSON.parse((await runOpm(['projects', 'create', 'acme', '--json'], env)).stdout);
  apps = await Promise.all([
    startApp('ingress', env),
    startApp('worker', env),
    startApp('console', { ...env, CONSOLE_PASSWORD: 'open sesame' }),
  ]);
  const [ingress] = apps;
  const call = async (method: string, path: string, body?: object) => {
    const init = { method, headers: { 'x-api-key': apiKey }, ...(body && { body: JSON.stringify(body) }) };
    const response = await fetch(`${ingress?.url}${path}`, init);
    const answer = (await response.json()) as { pending?: boolean; customer?: { customerPhone?: string } };
    return { status: response.status, body: answer };
  };
  const read = () => call('GET', '/entry/jane');
  expect((await call('POST', '/entry', { customerId: 'jane', customerPhone: '+1' })).status).toBe(201);
  await waitFor(async () => (await read()).body.pending === false, { description: 'the row' });
  expect((await call('POST', '/entry', { customerId: 'jane', customerPhone: '+2' })).status).toBe(202);
  await waitFor(async () => (await read()).body.customer?.customerPhone === '+2', { description: 'the update' });
  expect((await call('DELETE', '/entry/jane')).status).toBe(202);
  await waitFor(async () => (await read()).status === 404, { description: 'the erasure' });

  const letter = `INSERT INTO dead_letters (payload, error) VALUES ('{}', 'none')`;
  await query(env.DATABASE_URL as string, letter);
  expect(await runOpm(['dead-letters', 'discard', '--all'], env)).toMatchObject({ code: 0 });
  expect(await runOpm(['keys', 'rotate', 'acme', '--grace', '0s'], env)).toMatchObject({ code: 0 });

  for (const change of ['ALTER TABLE customers DROP COLUMN ip', 'DROP TABLE customers', 'TRUNCATE customers']) {
    await expect(query(env.DATABASE_URL as string, change)).rejects.toThrow(/must be owner|permission denied/);
  }
});

test('the role can also use a table that the owner creates later', async () => {
  await query(backend.databaseUrl, 'CREATE TABLE later (id serial)');
  await query(env.DATABASE_URL as string, 'INSERT INTO later DEFAULT VALUES');
});

test('the role gets a new password, or keeps its current one', async () => {
  const url = Object.assign(new URL(env.DATABASE_URL as string), { password: 'another' });
  const login = () => query(url.href, 'SELECT FROM customers LIMIT 0');
  await expect(login()).rejects.toThrow('password authentication failed');
  await grantToAppRole(backend.databaseUrl, { name: ROLE, password: 'another' });
  await login();
  expect(await migrate()).toMatchObject({
    code: 0,
    stdout: `The database is up to date.\nThe role ${ROLE} can read and write rows.\n`,
  });
  await login();
  await grantToAppRole(backend.databaseUrl, { name: ROLE, password: PASSWORD });
});

test('a role with too many privileges, or an impossible one, is refused with the reason and stays unchanged', async () => {
  const owner = decodeURIComponent(new URL(backend.databaseUrl).username);
  const [superuser, member, silent] = [`${ROLE}_superuser`, `${ROLE}_member`, `${ROLE}_silent`];
  await query(
    backend.databaseUrl,
    `CREATE ROLE ${superuser} SUPERUSER; CREATE ROLE ${member} IN ROLE ${owner}; CREATE ROLE ${silent}`,
  );
  const tooMighty = 'the role owns the tables or the database; name a role that owns nothing';
  const refusals: [name: string, password: string | undefined, reason: string][] = [
    [owner, 'guessed', tooMighty],
    [superuser, 'guessed', tooMighty],
    [member, 'guessed', tooMighty],
    [silent, undefined, 'the role cannot log in'],
    ['nobody', 'Überraschung', 'the password must contain only printable ASCII characters'],
  ];
  for (const [name, password, reason] of refusals) {
    await expect(grantToAppRole(backend.databaseUrl, { name, password })).rejects.toThrow(reason);
  }
  expect(await migrate('', 'nobody')).toMatchObject({
    code: 1,
    stderr: 'opm: --app-role nobody without APP_ROLE_PASSWORD: the role does not exist\n',
  });
  expect(await migrate('', '')).toMatchObject({ code: 2, stderr: expect.stringContaining('must not be empty') });
  const text = `SELECT rolname FROM pg_roles WHERE rolcanlogin AND (rolname = 'nobody' OR rolname LIKE $1)`;
  expect(await query(backend.databaseUrl, text, [`${ROLE}\\_%`])).toEqual([]);
  await query(backend.databaseUrl, `DROP ROLE ${superuser}, ${member}, ${silent}`);
});

test('the error says if DATABASE_URL is not the owner’s or may not create roles', async () => {
  const reader = `${ROLE}_reader`;
  await query(backend.databaseUrl, `CREATE ROLE ${reader} LOGIN PASSWORD 'reader'`);
  await query(backend.databaseUrl, `GRANT ALL ON _prisma_migrations TO ${reader}`);
  const url = Object.assign(new URL(backend.databaseUrl), { username: reader, password: 'reader' });
  await expect(grantToAppRole(url.href, { name: ROLE })).rejects.toThrow(/permission denied|cannot grant/);
  await expect(grantToAppRole(url.href, { name: 'new', password: 'secret' })).rejects.toThrow(
    /permission denied to create role/,
  );
  await query(backend.databaseUrl, `DROP OWNED BY ${reader}; DROP ROLE ${reader}`);
});
