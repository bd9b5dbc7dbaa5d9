import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  type Backend,
  createBackend,
  createDatabase,
  findChildren,
  type LocalRedis,
  query,
  runOpm,
  startLocalRedis,
  startProcess,
  testPrefix,
  waitFor,
  withRedis,
} from '@opm/testkit';
import pg from 'pg';
import { expectWorks } from './expect-works.js';

const PASSWORD = 'p@ss:w/o?r#d%&+ ü%41';

let directory: string;
let backend: Backend;
let redis: LocalRedis;
let role: string;
let databaseUrl: string;

const withLogin = (url: string, user: string, password: string) =>
  url.replace(/\/\/([^@]*@)?/, `//${encodeURIComponent(user)}:${encodeURIComponent(password)}@`);

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-passwords-'));
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  role = `${testPrefix()} p@rtner/é`;
  const create = `CREATE ROLE ${pg.escapeIdentifier(role)} SUPERUSER LOGIN PASSWORD ${pg.escapeLiteral(PASSWORD)}`;
  await query(backend.databaseUrl, create);
  databaseUrl = withLogin(backend.databaseUrl, role, PASSWORD);
  redis = await startLocalRedis({ directory, flags: ['--appendonly', 'no'] });
  await withRedis(redis.url, async (admin) => {
    await admin.call('ACL', 'SETUSER', 'opm@work', 'on', `>${PASSWORD}`, '~*', '&*', '+@all');
    await admin.config('SET', 'requirepass', PASSWORD);
  });
});
afterAll(async () => {
  await backend.drop();
  await query(process.env.OPM_TEST_ADMIN_URL ?? '', `DROP ROLE ${pg.escapeIdentifier(role)}`);
  await redis.stop();
  await rm(directory, { recursive: true });
});

const SECRET = /p@ss|p%40ss/;

const asVariables = async (secrets: NodeJS.ProcessEnv) => secrets;

/** Writes each value to a file, as an editor does, and names the files. */
async function asFiles(secrets: NodeJS.ProcessEnv): Promise<NodeJS.ProcessEnv> {
  const files = Object.entries(secrets).map(async ([name, value]) => {
    await writeFile(join(directory, name), `${value}\n`);
    return [`${name}_FILE`, join(directory, name)];
  });
  return Object.fromEntries(await Promise.all(files));
}

/** The command line and the environment of a process, as the machine shows them. */
const readVisible = async (pid: number) =>
  (await readFile(`/proc/${pid}/cmdline`, 'utf8')) + (await readFile(`/proc/${pid}/environ`, 'utf8'));

async function findDescendants(pid: number): Promise<number[]> {
  const children = await Promise.all((await findChildren(pid)).map(findDescendants));
  return [pid, ...children.flat()];
}

test.each([
  ['in Redis, with a password', () => withLogin(redis.url, '', PASSWORD), asVariables],
  ['in Redis, with a user of its own', () => withLogin(redis.url, 'opm@work', PASSWORD), asFiles],
  ['in PostgreSQL', () => '', asVariables],
])('users and passwords may have any character, everywhere: the queue %s', async (name, toRedisUrl, pass) => {
  const secrets = { DATABASE_URL: databaseUrl, REDIS_URL: toRedisUrl(), CONSOLE_PASSWORD: PASSWORD };
  const env = { ...(await pass(secrets)), REDIS_PREFIX: testPrefix() };
  const visible: string[] = [];
  const output = await expectWorks(env, name, async ({ pid }) => {
    visible.push(await readVisible(pid));
  });
  expect(output).not.toMatch(SECRET);
  if (pass === asFiles) expect(visible.filter((text) => SECRET.test(text))).toEqual([]);
});

test('with DATABASE_URL_FILE, no process of `opm migrate` shows the password while Prisma migrates', async () => {
  const database = await createDatabase({ adminUrl: process.env.OPM_TEST_ADMIN_URL as string });
  const lock = new pg.Client(database.url);
  await lock.connect();
  // Prisma's engine waits for the lock of its migrations.
  await lock.query('SELECT pg_advisory_lock(72707369)');
  const env = await asFiles({ DATABASE_URL: withLogin(database.url, role, PASSWORD) });
  const opm = await startProcess({ file: 'apps/cli/bin/opm.js', args: ['migrate'], env });
  const isWaiting = `SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (
    SELECT oid FROM pg_database WHERE datname = current_database())`;
  await waitFor(async () => (await lock.query(isWaiting)).rowCount === 1, { description: 'Prisma to wait' });
  const pids = await findDescendants(opm.pid);
  const visible = await Promise.all(pids.map(readVisible));
  expect(visible.map((text) => /(opm|index|schema-engine)\.m?js/.exec(text)?.[0])).toEqual([
    'opm.js',
    'index.js',
    'schema-engine.mjs',
  ]);
  expect(visible.filter((text) => SECRET.test(text))).toEqual([]);
  await lock.end();
  expect(await opm.exited).toEqual({ code: 0, signal: null });
  expect(opm.output()).toMatch(/The database is up to date/);
  await database.drop();
});

test.each(['ingress', 'worker', 'console', 'opm'])(
  '%s names a URL whose password is not percent-encoded and the fix, without printing the password',
  async (name) => {
    const env = { DATABASE_URL: `postgresql://opm:${PASSWORD}@127.0.0.1/opm`, CONSOLE_PASSWORD: 'x' };
    const run = async () => {
      if (name === 'opm')
        return runOpm(['migrate'], env).then(({ code, stdout, stderr }) => ({ code, text: stdout + stderr }));
      const app = await startProcess({ file: `apps/${name}/dist/main.js`, env });
      return { code: (await app.exited).code, text: app.output() };
    };
    const { code, text } = await run();
    expect([code, text]).toEqual([
      1,
      expect.stringMatching(
        /DATABASE_URL is not valid: .* percent-encode every character of the user and password except letters and digits/,
      ),
    ]);
    expect(text).not.toMatch(/p@ss|w\/o|r#d/);
  },
);
