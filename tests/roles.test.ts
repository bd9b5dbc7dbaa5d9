import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createEntryQueue } from '@opm/queue';
import {
  type Backend,
  createBackend,
  createDatabase,
  query,
  runOpm,
  startApp,
  type TestApp,
  type TestDatabase,
  testPrefix,
  waitFor,
  withRedis,
} from '@opm/testkit';
import pg from 'pg';
import { PASSWORD, ROLES, type RoleFile, runGuide, runSql, startRedisWithUsers, writeSecrets } from './set-up-roles.js';

const admin = process.env.OPM_TEST_ADMIN_URL as string;
const ALL_ROLES = [...Object.values(ROLES), 'opm_backup'];
const APPS = ['ingress', 'worker', 'console', 'opm'] as const;
const INSUFFICIENT_PRIVILEGE = '42501';

let directory: string;
let secrets: string;
let database: TestDatabase;
let urls: Record<RoleFile, string>;
let redis: Awaited<ReturnType<typeof startRedisWithUsers>>;
const prefix = testPrefix();

const envOf = (user: (typeof APPS)[number]) => ({
  DATABASE_URL: urls[user],
  REDIS_URL: redis.urlOf(user),
  REDIS_PREFIX: prefix,
});

/** Everything that roles.sql and grants.sql write, but the salts of the passwords. */
const readPrivileges = (databaseUrl: string) =>
  query(
    databaseUrl,
    `SELECT 'role' AS kind, rolname AS name, to_jsonb(r)::text AS state FROM pg_roles r WHERE rolname = ANY($1)
     UNION ALL SELECT 'member', roleid::regrole::text, member::regrole::text FROM pg_auth_members
     UNION ALL SELECT 'database', datname, concat(datdba::regrole, datacl) FROM pg_database
       WHERE datname IN (current_database(), 'postgres', 'template1')
     UNION ALL SELECT 'schema', nspname, concat(nspowner::regrole, nspacl) FROM pg_namespace
     UNION ALL SELECT 'table', oid::regclass::text, concat(relowner::regrole, relacl) FROM pg_class
     UNION ALL SELECT 'column', concat(attrelid::regclass, '.', attname), attacl::text FROM pg_attribute WHERE attacl <> '{}'
     UNION ALL SELECT 'routine', oid::regprocedure::text, concat(proowner::regrole, proacl) FROM pg_proc
     UNION ALL SELECT 'default', defaclnamespace::regnamespace::text, defaclacl::text FROM pg_default_acl
     ORDER BY 1, 2, 3`,
    [ALL_ROLES],
  );

beforeAll(async () => {
  const known = await query<{ rolname: string }>(admin, 'SELECT rolname FROM pg_roles WHERE rolname = ANY($1)', [
    ALL_ROLES,
  ]);
  if (known.length > 0) throw new Error('the server of the tests has roles of OPM, whose passwords this would change');
  directory = await mkdtemp(join(tmpdir(), 'opm-roles-'));
  secrets = join(directory, 'secrets');
  database = await createDatabase({ adminUrl: admin });
  urls = await writeSecrets(secrets, database.url);
  redis = await startRedisWithUsers(directory, prefix);
  await runGuide(database.url, secrets);
});
afterAll(async () => {
  await redis.stop();
  await database.drop();
  await query(admin, 'REVOKE CONNECT ON DATABASE postgres FROM opm_backup');
  for (const role of ALL_ROLES) await query(admin, `DROP ROLE ${role}`);
  await query(admin, 'GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC');
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
});

describe('processes, each with its own role and its own user of Redis,', () => {
  let apps: Record<'ingress' | 'worker' | 'console', TestApp>;
  let apiKey: string;
  let cookie: string;

  const opm = async (...args: string[]) => {
    const { code, stdout, stderr } = await runOpm([...args, '--json'], envOf('opm'));
    expect({ code, stderr: stderr.replace(/^\[.*\n/gm, '') }).toEqual({ code: 0, stderr: '' });
    return JSON.parse(stdout);
  };
  const call = async (method: string, path: string, body?: object, headers = {}) => {
    const response = await fetch(apps.ingress.url + path, {
      method,
      headers: { 'x-api-key': apiKey, 'content-type': 'application/json', ...headers },
      ...(body && { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: (await response.json()) as { customer?: object; pending?: boolean } };
  };
  const post = (customerId: string, phone = '+1') => call('POST', '/entry', { customerId, customerPhone: phone });
  const waitForCustomer = (customerId: string, customer: object) =>
    waitFor(
      async () => {
        expect((await call('GET', `/entry/${customerId}`)).body).toMatchObject({ pending: false, customer });
        return true;
      },
      { description: `the row of ${customerId}` },
    );
  const send = async (method: string, path: string, body?: URLSearchParams | string) => {
    const headers = new Headers({ cookie, 'sec-fetch-site': 'same-origin' });
    if (typeof body === 'string') headers.set('content-type', 'application/json');
    const init = { method, headers, redirect: 'manual', ...(body && { body }) } as const;
    const response = await fetch(apps.console.url + path, init);
    return { status: response.status, text: await response.text() };
  };
  const submit = async (path: string, fields: Record<string, string> = {}) => {
    const [, csrf = ''] = /name="csrf" value="([^"]+)"/.exec((await send('GET', '/')).text) ?? [];
    return (await send('POST', path, new URLSearchParams({ csrf, ...fields }))).status;
  };
  /** Makes a dead letter: the owner forbids the customer until the worker has rejected the entry. */
  async function makeDeadLetter(customerId: string): Promise<string> {
    const count = async () => Number((await opm('dead-letters', 'list')).length);
    await query(urls.owner, `ALTER TABLE customers ADD CONSTRAINT refused CHECK (customer_id <> '${customerId}')`);
    expect((await post(customerId)).status).toBe(201);
    await waitFor(async () => (await count()) > 0, { description: 'the dead letter' });
    await query(urls.owner, 'ALTER TABLE customers DROP CONSTRAINT refused');
    return (await opm('dead-letters', 'list'))[0].deadLetterId;
  }

  beforeAll(async () => {
    ({ apiKey } = await opm('projects', 'create', 'acme'));
    const [ingress, worker, console] = await Promise.all([
      startApp('ingress', envOf('ingress')),
      startApp('worker', envOf('worker')),
      startApp('console', { ...envOf('console'), CONSOLE_PASSWORD: PASSWORD, CONSOLE_READ_ONLY: 'false' }),
    ]);
    apps = { ingress, worker, console };
    const body = new URLSearchParams({ name: 'admin', password: PASSWORD });
    const answer = await fetch(`${console.url}/login`, { method: 'POST', redirect: 'manual', body });
    cookie = (answer.headers.get('set-cookie') ?? '').split(';')[0] as string;
  });
  afterAll(async () => {
    const exits = await Promise.all(Object.values(apps).map((app) => app.stop()));
    const output = Object.values(apps).map((app) => app.output());
    expect(exits).toEqual(exits.map(() => ({ code: 0, signal: null })));
    expect(output.join('')).not.toMatch(/permission denied|NOPERM|no permissions/i);
    // Redis notes each refused command here.
    expect(await withRedis(redis.urlOf('admin'), (client) => client.call('ACL', 'LOG'))).toEqual([]);
  });

  test('carry entries, repeats and erasures to rows', async () => {
    await opm('projects', 'limits', 'acme', '--rate', '1000', '--burst', '1000');
    expect((await post('jane')).status).toBe(201);
    await waitForCustomer('jane', { customerPhone: '+1' });
    expect((await post('jane', '+2')).status).toBe(202);
    await waitForCustomer('jane', { customerPhone: '+2' });
    const once = () => call('POST', '/entry', { customerId: 'once', customerPhone: '+1' }, { 'idempotency-key': 'k' });
    expect([await once(), await once()]).toMatchObject([{ status: 201 }, { status: 201 }]);
    expect((await call('POST', '/entries', [{ customerId: 'batch', customerPhone: '+1' }])).status).toBe(207);
    expect((await call('DELETE', '/entry/jane')).status).toBe(202);
    await waitFor(async () => (await call('GET', '/entry/jane')).status === 404, { description: 'the erasure' });
    for (const path of ['/keys', '/usage', '/entries/refused']) expect((await call('GET', path)).status).toBe(200);
  });

  test('make and replay dead letters, with opm and in the console', async () => {
    await makeDeadLetter('replayed-by-opm');
    expect(await opm('dead-letters', 'replay')).toMatchObject({ replayed: 1 });
    await waitForCustomer('replayed-by-opm', { customerPhone: '+1' });

    const letter = await makeDeadLetter('replayed-in-console');
    expect((await send('GET', `/dead-letters/${letter}`)).status).toBe(200);
    expect(await submit('/dead-letters/replay', { confirmed: 'on' })).toBe(303);
    await waitForCustomer('replayed-in-console', { customerPhone: '+1' });
  });

  test('show and change everything in the console', async () => {
    const [{ projectId }] = await opm('projects', 'list');
    const paths = [
      '/',
      '/partners',
      `/partners/${projectId}`,
      '/find?project=acme&customer=once',
      '/dead-letters',
      '/audit',
    ];
    for (const path of [...paths, '/operators', '/queues/', '/queues/api/queues']) {
      expect([path, (await send('GET', path)).status]).toEqual([path, 200]);
    }
    const partner = `/partners/${projectId}`;
    expect(await submit('/partners', { name: 'second' })).toBe(200);
    expect(await submit(`${partner}/pause`, { confirmed: 'on' })).toBe(303);
    expect(await submit(`${partner}/resume`)).toBe(303);
    expect(await submit(`${partner}/limit`, { rate: '900', burst: '900' })).toBe(303);
    expect(await submit(`${partner}/keys`, { label: 'their CRM', write: 'on' })).toBe(200);
    const keys: { keyId: number }[] = await opm('keys', 'list', 'acme');
    expect(await submit(`${partner}/keys/${keys.at(-1)?.keyId}/revoke`, { confirmed: 'on' })).toBe(303);
    expect(await submit('/find/erase?project=acme&customer=once', { confirmed: 'on' })).toBe(303);
    expect(await submit('/dead-letters/discard', { confirmed: 'on' })).toBe(303);
    for (const queue of ['entries-0', 'maintenance']) {
      for (const change of ['pause', 'resume', 'promote', 'retry/failed']) {
        const { status } = await send('PUT', `/queues/api/queues/${queue}/${change}`, '{}');
        expect([queue, change, status]).toEqual([queue, change, 200]);
      }
    }
    expect(await submit('/operators', { name: 'eve', role: 'viewer' })).toBe(200);
    expect(await submit('/operators/eve/role', { role: 'operator' })).toBe(303);
    expect(await submit('/operators/eve/password', { confirmed: 'on' })).toBe(200);
    expect(await submit('/operators/eve/remove', { confirmed: 'on' })).toBe(303);
  });

  test('operate with opm: keys, projects, operators, status', async () => {
    await opm('keys', 'create', 'acme', '--label', 'second');
    await opm('keys', 'rotate', 'acme', '--grace', '1h');
    await opm('projects', 'pause', 'second');
    await opm('projects', 'rename', 'second', 'another');
    expect(await opm('customers', 'get', 'acme', 'batch')).toMatchObject({ phone: '+1' });
    expect((await opm('audit')).length).toBeGreaterThan(10);
    const status = await runOpm(['status', '--json'], envOf('opm'));
    // The dead letters of before are a problem, and would be unknown if a table could not be read.
    expect(JSON.parse(status.stdout)).toMatchObject({ deadLetters: 0, queue: { entries: 0, idle: [] } });
  });
});

describe('a role', () => {
  const NOBODY = [
    ...['CREATE TABLE mine ()', 'CREATE TEMP TABLE mine ()', 'CREATE SCHEMA mine', 'CREATE EXTENSION pg_trgm'],
    ...['DROP TABLE customers', 'ALTER TABLE customers DROP COLUMN ip', 'TRUNCATE customers', 'DROP SCHEMA public'],
    ...['UPDATE audit_log SET actor = actor', 'DELETE FROM audit_log', 'SELECT FROM _prisma_migrations'],
    ...['SELECT FROM pg_authid', `SELECT pg_read_file('/etc/passwd')`, `COPY (SELECT 1) TO PROGRAM 'id'`],
    ...['SET ROLE opm_owner', 'CREATE ROLE mine', 'ALTER ROLE opm_owner PASSWORD NULL', 'CREATE DATABASE mine'],
    ...['GRANT opm_owner TO CURRENT_USER', `SELECT setval('audit_log_id_seq', 1)`, 'SELECT FROM admission.claims'],
    ...['SELECT lo_create(0)', 'SELECT lo_creat(-1)', `SELECT lo_from_bytea(0, '')`],
  ];
  const CANNOT: Record<(typeof APPS)[number], string[]> = {
    ingress: [
      ...['INSERT INTO customers DEFAULT VALUES', 'UPDATE customers SET phone = phone', 'DELETE FROM customers'],
      ...['INSERT INTO api_keys DEFAULT VALUES', 'UPDATE api_keys SET scopes = scopes', 'DELETE FROM api_keys'],
      ...['UPDATE projects SET rate = NULL', 'INSERT INTO projects DEFAULT VALUES', 'SELECT FROM operators'],
      ...['SELECT FROM operator_sessions', 'SELECT FROM audit_log', 'INSERT INTO audit_log DEFAULT VALUES'],
      ...['DELETE FROM dead_letters', 'INSERT INTO dead_letters DEFAULT VALUES', 'SELECT FROM erasures'],
      ...[
        'UPDATE high_water_mark SET version = 0',
        'DELETE FROM project_days',
        'UPDATE access_revision SET is_only = true',
      ],
    ],
    worker: [
      ...[
        'SELECT FROM api_keys',
        'SELECT rate FROM projects',
        'SELECT FROM operators',
        'SELECT FROM operator_sessions',
      ],
      ...['INSERT INTO projects DEFAULT VALUES', 'UPDATE projects SET name = name', 'SELECT FROM audit_log'],
      ...[
        'INSERT INTO api_keys DEFAULT VALUES',
        'SELECT FROM access_revision',
        'UPDATE dead_letters SET payload = payload',
      ],
      ...[
        'DELETE FROM high_water_mark',
        'INSERT INTO operators DEFAULT VALUES',
        'INSERT INTO audit_log DEFAULT VALUES',
      ],
    ],
    console: [
      ...['SELECT key_hash FROM api_keys', 'UPDATE api_keys SET key_hash = NULL', 'DELETE FROM api_keys'],
      ...['INSERT INTO customers DEFAULT VALUES', 'UPDATE customers SET phone = phone', 'DELETE FROM customers'],
      ...['DELETE FROM projects', 'INSERT INTO dead_letters DEFAULT VALUES', 'DELETE FROM erasures'],
      ...['UPDATE high_water_mark SET version = 0', 'DELETE FROM processes', 'UPDATE project_days SET created = 0'],
    ],
    opm: [],
  };

  test.each(APPS)('can do nothing but its task: %s', async (app) => {
    const client = new pg.Client({ connectionString: urls[app] });
    await client.connect();
    const allowed: string[] = [];
    for (const statement of [...NOBODY, ...CANNOT[app]]) {
      const code = await client.query(statement).then(
        () => 'allowed',
        (error: pg.DatabaseError) => error.code,
      );
      if (code !== INSUFFICIENT_PRIVILEGE) allowed.push(`${statement}: ${code}`);
    }
    await client.end();
    expect(allowed).toEqual([]);
  });

  test('is no superuser, also that of the owner and of backups: the owner runs no program, reads no file, makes no role', async () => {
    const rights = ['super', 'createrole', 'createdb', 'bypassrls', 'replication'];
    const found = await query(
      database.url,
      `SELECT rolname, ${rights.map((right) => `rol${right} AS ${right}`).join()} FROM pg_roles
       WHERE rolname = ANY($1) AND (${rights.map((right) => `rol${right}`).join(' OR ')})`,
      [ALL_ROLES],
    );
    const none = { super: false, createrole: false, createdb: false, bypassrls: false };
    expect(found).toEqual([{ rolname: 'opm_backup', ...none, replication: true }]);
    for (const statement of [
      "COPY (SELECT 1) TO PROGRAM 'true'",
      "SELECT pg_read_file('/etc/hostname')",
      'CREATE ROLE intruder',
      'CREATE DATABASE intruder',
      "ALTER SYSTEM SET work_mem = '8MB'",
      'ALTER ROLE opm_owner SUPERUSER',
    ]) {
      const refused = expect(query(urls.owner, statement)).rejects;
      await refused.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
    }
  });

  test.each([...Object.keys(ROLES), 'backup'])(
    'reaches no other database, and backups no database: %s',
    async (file) => {
      const url = new URL(urls[file as RoleFile] ?? urls.owner);
      if (file === 'backup') url.username = 'opm_backup';
      for (const name of file === 'backup' ? ['template1', database.name] : ['postgres', 'template1']) {
        url.pathname = name;
        await expect(query(url.href, 'SELECT')).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
      }
    },
  );

  test('has nothing of a new table, and every table has a line in grants.sql', async () => {
    const grants = await readFile(new URL('../deploy/postgres/grants.sql', import.meta.url), 'utf8');
    const tables = await query<{ name: string }>(
      urls.owner,
      `SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')`,
    );
    expect(tables.length).toBeGreaterThan(10);
    expect(tables.filter(({ name }) => !new RegExp(`\\bON (\\w+, )*${name}\\b`).test(grants))).toEqual([]);

    await query(urls.owner, 'CREATE TABLE later (id serial)');
    const held = `SELECT grantee, privilege_type FROM information_schema.role_table_grants
      WHERE table_name = 'later' AND grantee <> 'opm_owner'`;
    expect(await query(urls.owner, held)).toEqual([]);
    await query(urls.owner, 'GRANT ALL ON later TO PUBLIC, opm_worker; GRANT SELECT (id) ON later TO opm_ingress');
    expect(await runSql('grants.sql', urls.owner)).toEqual({ code: 0, printed: '' });
    expect(await query(urls.owner, held)).toEqual([]);
    await query(urls.owner, 'DROP TABLE later');
  });
});

describe('a user of Redis', () => {
  const KEY = `{${prefix}-0}:version`;
  const NOBODY = [
    ...[['CONFIG', 'GET', '*'], ['FLUSHALL'], ['FLUSHDB'], ['KEYS', '*'], ['SCAN', '0'], ['DEBUG', 'JMAP']],
    ...[['SHUTDOWN'], ['ACL', 'LIST'], ['ACL', 'WHOAMI'], ['MODULE', 'LIST'], ['REPLICAOF', 'NO', 'ONE'], ['MONITOR']],
    ...[
      ['SCRIPT', 'FLUSH'],
      ['FUNCTION', 'FLUSH'],
      ['CLIENT', 'KILL', 'TYPE', 'normal'],
      ['CLIENT', 'PAUSE', '1'],
    ],
    ...[['SAVE'], ['BGREWRITEAOF'], ['MIGRATE', '127.0.0.1', '1', KEY, '0', '1'], ['DUMP', KEY], ['PUBLISH', 'x', 'y']],
    ...[
      ['CLUSTER', 'RESET'],
      ['SWAPDB', '0', '1'],
      ['GET', 'other'],
      ['GET', '{other-0}:version'],
    ],
    ...[
      ['EVAL', `return redis.call('GET', KEYS[1])`, '1', 'other'],
      ['EVAL', `return redis.call('FLUSHALL')`, '0'],
    ],
  ];

  test.each(APPS)('can do nothing but its task: %s', async (user) => {
    const more = user === 'ingress' || user === 'opm' ? [['GET', `{${prefix}-maintenance}:maintenance:id`]] : [];
    await withRedis(redis.urlOf(user), async (client) => {
      expect(await client.get(KEY)).not.toBe('');
      for (const [name = '', ...args] of [...NOBODY, ...more]) {
        await expect(client.call(name, ...args)).rejects.toThrow(/NOPERM|no permissions|ACL failure/);
      }
    });
  });

  test('for replicas can read no key and change nothing', async () => {
    // ioredis reads INFO when it connects, unless it is told not to.
    await withRedis(`${redis.urlOf('replication')}?enableReadyCheck=`, async (client) => {
      expect(await client.ping()).toBe('PONG');
      for (const [name = '', ...args] of [...NOBODY, ['GET', KEY], ['SET', KEY, '1'], ['INFO']]) {
        await expect(client.call(name, ...args)).rejects.toThrow(/NOPERM|no permissions|ACL failure/);
      }
    });
  });

  test('writes nothing that a restart of Redis loses', async () => {
    const own = await mkdtemp(join(directory, 'restart-'));
    const write = `redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 2)`; // a transaction in the append-only file
    const first = await startRedisWithUsers(own, prefix);
    await withRedis(first.urlOf('ingress'), (client) => client.eval(write, 2, KEY, `${KEY}-2`));
    await first.stop();
    const second = await startRedisWithUsers(own, prefix);
    expect(await withRedis(second.urlOf('ingress'), (client) => client.exists(KEY, `${KEY}-2`))).toBe(2);
    await second.stop();
  });

  test('without a password may only say PING, and without a name nothing', async () => {
    // ioredis reads INFO when it connects, unless it is told not to.
    const [health, nobody] = [`${redis.url.replace('//', '//health:x@')}?enableReadyCheck=`, redis.url];
    await withRedis(health, async (client) => {
      expect(await client.ping()).toBe('PONG');
      await expect(client.get(KEY)).rejects.toThrow('NOPERM');
    });
    await withRedis(nobody, (client) => expect(client.ping()).rejects.toThrow('NOAUTH'));
  });
});

test('an ingress whose user of Redis has no right to its keys is not ready, and says why', async () => {
  const queue = await createEntryQueue({
    ...{ databaseUrl: urls.ingress, redisUrl: redis.urlOf('ingress'), prefix: `${prefix}-other`, shards: 1 },
    ...{ signal: new AbortController().signal, onError: () => {} },
  });
  await expect(queue.check()).rejects.toThrow('NOPERM');
  await queue.close();
});

describe('roles.sql, migrations and grants.sql', () => {
  test('change nothing if they run again, and call no function that the owner made', async () => {
    for (const types of ['text, text', 'text, text, regclass']) {
      await query(urls.owner, `CREATE FUNCTION format(${types}) RETURNS text LANGUAGE sql AS $$ SELECT 1/0 $$`);
    }
    const before = await readPrivileges(database.url);
    await runGuide(database.url, secrets);
    expect(await readPrivileges(database.url)).toEqual(before);
  });

  test('name the file if a password is missing, print no password, and change no password', async () => {
    const file = join(secrets, 'worker-database-url');
    await writeFile(file, `postgresql://opm_app:${PASSWORD}@127.0.0.1/opm`);
    const { code, printed } = await runSql('roles.sql', database.url, secrets);
    expect([code, printed]).toEqual([
      3,
      expect.stringMatching(/worker-database-url must have a URL of the form postgresql:\/\/opm_worker:PASSWORD@…\n$/),
    ]);
    expect(printed).not.toContain('quoted');
    await rm(file);
    expect(await runSql('roles.sql', database.url, secrets)).toMatchObject({ code: 3 });
    await writeFile(file, urls.worker);
    for (const url of Object.values(urls)) await query(url, 'SELECT');
  });

  test('leave a database alone that is not the one in owner-database-url', async () => {
    const other = await createDatabase({ adminUrl: admin });
    const before = await readPrivileges(other.url);
    const { code, printed } = await runSql('roles.sql', other.url, secrets);
    expect(code).toBe(3);
    expect(printed).toMatch(/this is the database \w+, but owner-database-url names \w+\n$/);
    expect(await readPrivileges(other.url)).toEqual(before);
    await other.drop();
  });

  test('take over a database of the release before, whose processes go on', async () => {
    const backend: Backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
    const old = new URL(backend.databaseUrl);
    [old.username, old.password] = [`opm_app_${process.pid}`, 'old'];
    await query(
      backend.databaseUrl,
      `CREATE ROLE ${old.username} LOGIN PASSWORD 'old';
       GRANT CONNECT ON DATABASE ${old.pathname.slice(1)} TO ${old.username};
       GRANT USAGE ON SCHEMA public TO ${old.username};
       GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ${old.username};
       REVOKE UPDATE, DELETE ON audit_log FROM ${old.username};
       GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ${old.username};
       ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ${old.username}`,
    );
    const env = { ...backend.env, DATABASE_URL: old.href };
    const { apiKey } = JSON.parse((await runOpm(['projects', 'create', 'acme', '--json'], env)).stdout);
    const apps = await Promise.all([startApp('ingress', env), startApp('worker', env)]);
    const persist = async (count: number) => {
      const headers = { 'x-api-key': apiKey, 'content-type': 'application/json' };
      const body = JSON.stringify({ customerId: `jane-${count}`, customerPhone: '+1' });
      expect((await fetch(`${apps[0].url}/entry`, { method: 'POST', headers, body })).status).toBe(201);
      const isStored = async () => (await apps[1].readMetric('opm_entries_persisted_total')) === count;
      await waitFor(isStored, { description: 'the row' });
    };
    await persist(1);

    const folder = join(directory, "the secrets' folder");
    const { owner } = await writeSecrets(folder, backend.databaseUrl);
    expect(await runSql('roles.sql', backend.databaseUrl, folder)).toEqual({ code: 0, printed: '' });
    await persist(2);
    expect(await runOpm(['migrate'], { DATABASE_URL: owner, REDIS_URL: '' })).toMatchObject({ code: 0 });
    expect(await runSql('grants.sql', owner)).toEqual({ code: 0, printed: '' });
    await persist(3);
    await query(old.href, 'SELECT'); // new sessions too
    const owned = `SELECT relname FROM pg_class WHERE relowner <> 'opm_owner'::regrole
      AND relnamespace::regnamespace::text IN ('public', 'admission', 'bullmq')`;
    expect(await query(backend.databaseUrl, owned)).toEqual([]);
    await query(
      owner,
      'ALTER TABLE customers ADD COLUMN later text; ALTER TABLE admission.claims ADD COLUMN later text',
    );

    expect(await Promise.all(apps.map((app) => app.stop()))).toEqual(apps.map(() => ({ code: 0, signal: null })));
    await query(backend.databaseUrl, `DROP OWNED BY ${old.username}; DROP ROLE ${old.username}`);
    await backend.drop();
  });

  test('opm migrate --app-role says that they replace it', async () => {
    expect(await runOpm(['migrate', '--app-role', 'opm_app'], { DATABASE_URL: urls.owner })).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('roles.sql and grants.sql replace it, see docs/postgresql.md'),
    });
  });
});
