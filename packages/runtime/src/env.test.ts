import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { count, PROCESS_ENV, parseEnv, port, readSecretFiles } from './env.js';

const spec = {
  ...PROCESS_ENV,
  PORT: port({ default: 3000, desc: 'port for partners' }),
  LIMIT: count({ desc: 'a limit' }),
};

const ENCODING = 'percent-encode every character of the user and password except letters and digits, such as @ as %40';

test('all problems are named at once, and no value is printed', () => {
  const read = () =>
    parseEnv(
      {
        DATABASE_URL: 's3cret',
        PORT: '99999s3cret',
        REDIS_PREFIX: '{s3cret}',
        QUEUE_SHARDS: '0',
        REDIS_URL: 'http://s3cret',
        LOG_LEVEL: 's3cret',
        SHUTDOWN_TIMEOUT_MS: '3000000000',
      },
      spec,
    );
  expect(read).toThrow(
    [
      `DATABASE_URL is not valid: URL of PostgreSQL, such as postgresql://user:password@host:5432/opm; it must not set options, statement_timeout, query_timeout, lock_timeout or a schema other than public; ${ENCODING}`,
      `REDIS_URL is not valid: URL of Redis, such as redis://host:6379, or comma-separated URLs of Redis Cluster nodes; the only allowed parameter is family; if unset, the queue is in PostgreSQL; ${ENCODING}`,
      'REDIS_PREFIX is not valid: namespace of all keys on Redis, without { and }',
      'QUEUE_SHARDS is not valid: number of queues, 1 to 1000, the same for every process',
      'LOG_LEVEL is not valid: one of fatal, error, warn, info, debug, trace, silent',
      'SHUTDOWN_TIMEOUT_MS is not valid: milliseconds, 1 to 2147483647, that a process may take to drain after SIGTERM',
      'PORT is not valid: port for partners',
      'LIMIT is missing: a limit',
    ].join('\n'),
  );
});

test('several nodes of a Redis Cluster are accepted if their credentials are the same', () => {
  const read = (...urls: string[]) =>
    parseEnv({ DATABASE_URL: 'postgresql://localhost/opm', LIMIT: '5', REDIS_URL: urls.join(',') }, spec).REDIS_URL;
  const urls = ['redis://u:p@a:7000', 'redis://u:p@b:7001'];
  expect(read(...urls)).toBe(urls.join(','));
  for (const other of ['redis://u:q@b:7001', 'redis://b:7001', 'rediss://u:p@b:7001', 'http://b', 'b:7001', '']) {
    expect(() => read('redis://u:p@a:7000', other)).toThrow(/^REDIS_URL is not valid/);
  }
});

test('the number of shards is limited to what fits into the slots of a cluster', () => {
  const read = (shards: string) =>
    parseEnv({ DATABASE_URL: 'postgresql://localhost/opm', LIMIT: '5', QUEUE_SHARDS: shards }, spec).QUEUE_SHARDS;
  expect(read('1000')).toBe(1000);
  expect(() => read('1001')).toThrow(/^QUEUE_SHARDS is not valid: number of queues, 1 to 1000, /);
});

test('defaults apply, and an empty variable counts as not set', () => {
  const env = parseEnv({ DATABASE_URL: 'postgresql://localhost/opm', REDIS_URL: '', LIMIT: '5' }, spec);
  expect(env).toMatchObject({ PORT: 3000, LIMIT: 5, QUEUE_SHARDS: 1, REDIS_URL: undefined });
});

test.each(['p/w', 'p?w', 'p#w', '1/w', '1?w', '1#w', 'p%w', 'p%8w', 'p%ffw', '%', 'p w', 'p\tw', 'a@b/w', 'a@1#w'])(
  'a URL whose password %p is not percent-encoded is rejected, and the error contains only its name',
  (password) => {
    const urls = { DATABASE_URL: `postgresql://opm:${password}@host:5432/opm`, REDIS_URL: `redis://:${password}@host` };
    const read = () => parseEnv({ ...urls, LIMIT: '1' }, spec);
    const names = ['DATABASE_URL', 'REDIS_URL'];
    expect(read).toThrow(
      new RegExp(`^${names.map((name) => `${name} is not valid: [^\\n]*; ${ENCODING}`).join('\\n')}$`),
    );
  },
);

test('a URL with any percent-encoded password is accepted', () => {
  const password = encodeURIComponent('p@ss:w/o?r#d%&+ ü%zz');
  const urls = { DATABASE_URL: `postgres://a%40b:${password}@[::1]/opm?sslmode=verify-full&sslrootcert=/etc/ca.crt` };
  expect(parseEnv({ ...urls, REDIS_URL: `rediss://u:${password}@host:6379/1`, LIMIT: '1' }, spec)).toMatchObject(urls);
});

test.each([
  'options=-c%20TimeZone%3DCET',
  'statement_timeout=0',
  'query_timeout=0',
  'sslmode=require&lock_timeout=1',
  'schema=opm',
])('a PostgreSQL URL that would override what the processes set is rejected: ?%s', (search) => {
  const read = () => parseEnv({ DATABASE_URL: `postgresql://localhost/opm?${search}`, LIMIT: '1' }, spec);
  expect(read).toThrow(/^DATABASE_URL is not valid: .* it must not set options, /);
});

test('a Redis URL with a parameter that would override what the processes set is rejected', () => {
  const read = (search: string) =>
    parseEnv({ DATABASE_URL: 'postgresql://localhost/opm', REDIS_URL: `redis://host?${search}`, LIMIT: '1' }, spec);
  expect(read('family=6').REDIS_URL).toBe('redis://host?family=6');
  for (const search of ['commandTimeout=60000', 'family=6&enableOfflineQueue=true', 'maxRetriesPerRequest=3']) {
    expect(() => read(search)).toThrow(/^REDIS_URL is not valid: .* the only allowed parameter is family; /);
  }
});

describe('a secret in a file', () => {
  const directory = mkdtempSync(join(tmpdir(), 'opm-env-'));
  afterAll(() => rmSync(directory, { recursive: true }));
  const write = (name: string, content: string) => {
    writeFileSync(join(directory, name), content);
    return join(directory, name);
  };
  const KB = 1024;

  test.each([
    ['as it is', ' s3cret=\t', ' s3cret=\t'],
    ['without its last line end', 's3cret\n\n', 's3cret\n'],
    ['without its last line end of Windows', 's3cret\r\n', 's3cret'],
    ['of up to 64 KB', 'x'.repeat(64 * KB), 'x'.repeat(64 * KB)],
  ])('is read %s, through links too, and replaces its variable', (_, content, value) => {
    symlinkSync(write('target', content), join(directory, 'link'));
    for (const name of ['DATABASE_URL', 'REDIS_URL', 'CONSOLE_PASSWORD', 'OPM_KEY']) {
      const env = { [`${name}_FILE`]: join(directory, 'link'), [name]: '', PORT: '1' };
      expect(readSecretFiles(env)).toEqual({ [name]: value, PORT: '1' });
    }
    rmSync(join(directory, 'link'));
  });

  test('is read only if the process has the variable', () => {
    const env = { CONSOLE_PASSWORD_FILE: '/does/not/exist', OPM_KEY_FILE: '' };
    expect(readSecretFiles(env, ['DATABASE_URL', 'OPM_KEY'])).toEqual(env);
  });

  test('that cannot be read is named with its variable and without content, all problems at once', () => {
    mkdirSync(join(directory, 'folder'));
    const read =
      (DATABASE_URL_FILE: string, others = {}) =>
      () =>
        readSecretFiles({ DATABASE_URL_FILE, ...others });
    const large = write('large', 's3cret'.repeat(11 * KB));
    expect(read(large)).toThrow(`DATABASE_URL_FILE: ${large} is larger than 64 KB`);
    expect(read(write('empty', '\n'))).toThrow(/^DATABASE_URL_FILE: .*empty is empty$/);
    expect(read(join(directory, 'folder'))).toThrow(/^DATABASE_URL_FILE: .*folder is not a file$/);
    expect(read(join(large, 'below'))).toThrow(/^DATABASE_URL_FILE: .*below cannot be read: ENOTDIR$/);
    const missing = join(directory, 'missing');
    const both = { REDIS_URL_FILE: missing, REDIS_URL: 's3cret', OPM_KEY_FILE: 'redis://:s3cret@host' };
    expect(read(missing, both)).toThrow(
      [
        `DATABASE_URL_FILE: ${missing} does not exist`,
        'REDIS_URL and REDIS_URL_FILE are both set: set only one of them',
        'OPM_KEY_FILE is not valid: path of the file that holds OPM_KEY',
      ].join('\n'),
    );
  });
});
