import { createTestDatabase } from './test-database.js';
import { testPrefix } from './test-prefix.js';
import { ANSWER_TIMEOUT_MS } from './wide-limits.js';

export type BackendName = 'Redis' | 'PostgreSQL';

/** A database of its own and, on Redis, keys of its own: the environment of the processes and the options of the packages. */
export interface Backend {
  databaseUrl: string;
  redisUrl: string | undefined;
  prefix: string;
  answerTimeoutMs: number;
  env: NodeJS.ProcessEnv;
  drop(): Promise<void>;
}

/** For `describe.each(BACKENDS)`: what holds on one queue backend holds on the other. */
export const BACKENDS: [BackendName, () => Promise<Backend>][] = [
  ['Redis', () => createBackend(process.env.OPM_TEST_REDIS_URL)],
  ['PostgreSQL', () => createBackend(undefined)],
];

/** @param redisUrl without it the queue lives in PostgreSQL */
export async function createBackend(redisUrl: string | undefined): Promise<Backend> {
  const database = await createTestDatabase();
  const prefix = testPrefix();
  return {
    databaseUrl: database.url,
    redisUrl,
    prefix,
    answerTimeoutMs: ANSWER_TIMEOUT_MS,
    env: { DATABASE_URL: database.url, REDIS_URL: redisUrl ?? '', REDIS_PREFIX: prefix },
    drop: database.drop,
  };
}
