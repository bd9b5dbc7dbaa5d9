import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  type Backend,
  createBackend,
  type LocalRedis,
  query,
  runOpm,
  startLocalRedis,
  startProcess,
  testPrefix,
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

test.each([
  ['in Redis, with a password', () => withLogin(redis.url, '', PASSWORD)],
  ['in Redis, with a user of its own', () => withLogin(redis.url, 'opm@work', PASSWORD)],
  ['in PostgreSQL', () => ''],
])('users and passwords may have any character, everywhere: the queue %s', async (name, toRedisUrl) => {
  const env = {
    DATABASE_URL: databaseUrl,
    REDIS_URL: toRedisUrl(),
    REDIS_PREFIX: testPrefix(),
    CONSOLE_PASSWORD: PASSWORD,
  };
  expect(await expectWorks(env, name)).not.toMatch(/p@ss|p%40ss/);
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
