import { expect, test } from '@jest/globals';
import { count, parseEnv, port, STORE_ENV } from './env.js';

const spec = {
  ...STORE_ENV,
  PORT: port({ default: 3000, desc: 'port for partners' }),
  LIMIT: count({ desc: 'a limit' }),
};

test('all problems are named at once, and no value is printed', () => {
  const read = () =>
    parseEnv(
      {
        DATABASE_URL: 's3cret',
        PORT: '99999s3cret',
        QUEUE_SHARDS: '0',
        REDIS_URL: 'http://s3cret',
        LOG_LEVEL: 's3cret',
      },
      spec,
    );
  expect(read).toThrow(
    [
      'DATABASE_URL is not valid: URL of PostgreSQL, such as postgresql://user:password@host:5432/opm',
      'REDIS_URL is not valid: URL of Redis, such as redis://host:6379; without it the queue is kept in PostgreSQL',
      'QUEUE_SHARDS is not valid: number of queues, the same for every process',
      'LOG_LEVEL is not valid: one of fatal, error, warn, info, debug, trace, silent',
      'PORT is not valid: port for partners',
      'LIMIT is missing: a limit',
    ].join('\n'),
  );
});

test('defaults apply, and an empty variable counts as not given', () => {
  const env = parseEnv({ DATABASE_URL: 'postgresql://localhost/opm', REDIS_URL: '', LIMIT: '5' }, spec);
  expect(env).toMatchObject({ PORT: 3000, LIMIT: 5, QUEUE_SHARDS: 1, REDIS_URL: undefined });
});
