import { bool, cleanEnv, EnvMissingError, makeValidator, str, type ValidatorSpec } from 'envalid';

export type EnvSpec = Record<string, ValidatorSpec<unknown>>;
export type Env<Spec extends EnvSpec> = { [Name in keyof Spec]: Spec[Name] extends ValidatorSpec<infer T> ? T : never };

/** All that is wrong with the environment, a line each; values are not among them, they may be secrets. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** A whole number of at least one. */
export const count = makeValidator((text) => parseWhole(text, 1, Number.MAX_SAFE_INTEGER));

/** A whole number in a range, both ends included. */
export const countBetween = (least: number, most: number) => makeValidator((text) => parseWhole(text, least, most));

/** Above this, 24 days, Node's timers fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** A port to listen on; 0 lets the system choose a free one. */
export const port = makeValidator((text) => parseWhole(text, 0, 65_535));

function assertUrl(text: string, protocols: string[]): URL {
  if (!URL.canParse(text) || !protocols.includes(new URL(text).protocol)) throw new Error('not such a URL');
  if (!isEncoded(text)) throw new Error('not percent-encoded');
  return new URL(text);
}

/** Whether a password that was not percent-encoded has cut nothing of the URL off, and each % in it is that of an encoding. */
function isEncoded(text: string): boolean {
  const { username, password, pathname, search } = new URL(text);
  try {
    decodeURIComponent(username + password + pathname);
  } catch {
    return false;
  }
  return !/[\s#]/.test(text) && !`${pathname}${search}`.includes('@');
}

/** In the URL they would win over what each process sets: a time zone that it relies on, and how long a statement may take. */
const OWN_PARAMETERS = ['options', 'statement_timeout', 'query_timeout', 'lock_timeout'];
/** Where our tables are; Prisma's migrations would go by the URL. */
const SCHEMA = 'public';

const postgresUrl = makeValidator((text) => {
  const { searchParams } = assertUrl(text, ['postgresql:', 'postgres:']);
  if (OWN_PARAMETERS.some((name) => searchParams.has(name))) throw new Error('has a parameter of ours');
  if ((searchParams.get('schema') ?? SCHEMA) !== SCHEMA) throw new Error('names another schema');
  return text;
});

/** Of those that ioredis reads from the URL, which would win over what each process sets: how long it waits, and for what. */
const REDIS_PARAMETERS = ['family'];

/** One URL, or those of some nodes of a cluster, which take the same credentials. */
const redisUrl = makeValidator((text) => {
  const nodes = text.split(',').map((url) => assertUrl(url, ['redis:', 'rediss:']));
  const parameters = nodes.flatMap(({ searchParams }) => [...searchParams.keys()]);
  if (parameters.some((name) => !REDIS_PARAMETERS.includes(name))) throw new Error('has a parameter of ours');
  const [first, ...others] = nodes.map(({ protocol, username, password }) => `${protocol} ${username} ${password}`);
  if (others.some((other) => other !== first)) throw new Error('not the same credentials');
  return text;
});

function parseWhole(text: string, least: number, most: number): number {
  const number = Number(text);
  if (!/^\d+$/.test(text) || number < least || number > most) throw new Error('not in range');
  return number;
}

/** Braces would make another hash tag than the one that each shard's keys have. */
const redisPrefix = makeValidator((text) => {
  if (/[{}]/.test(text)) throw new Error('has braces');
  return text;
});

/** Workers take what was admitted longer ago, and is in no job, for left by a process that was killed. */
const MAX_ANSWER_TIMEOUT_MS = 30_000;

/** A cluster has 16,384 slots, of which each shard wants a share. */
const MAX_SHARDS = 1_000;

const ENCODING = 'in its user and password anything but letters and digits is percent-encoded, @ as %40';

/** What every process needs to know of its stores. */
export const STORE_ENV = {
  DATABASE_URL: postgresUrl({
    desc: `URL of PostgreSQL, such as postgresql://user:password@host:5432/opm, without ${OWN_PARAMETERS.join(', ')}, which are set by the processes, and with no other schema than ${SCHEMA}; ${ENCODING}`,
  }),
  REDIS_URL: redisUrl({
    default: undefined,
    desc: `URL of Redis, such as redis://host:6379, or of several nodes of a Redis Cluster with commas between them, and with no other parameter than ${REDIS_PARAMETERS}; without it the queue is kept in PostgreSQL; ${ENCODING}`,
  }),
  REDIS_MIN_REPLICAS: countBetween(
    0,
    100,
  )({ default: 0, desc: 'replicas of Redis that must have an entry before it is acknowledged, 0 to 100' }),
  ANSWER_TIMEOUT_MS: countBetween(
    100,
    MAX_ANSWER_TIMEOUT_MS,
  )({
    default: 1_000,
    desc: `milliseconds, 100 to ${MAX_ANSWER_TIMEOUT_MS}, in which a partner is answered, whatever the stores do`,
  }),
  REDIS_PREFIX: redisPrefix({ default: 'opm', desc: 'namespace of all keys on Redis, without { and }' }),
  QUEUE_SHARDS: countBetween(
    1,
    MAX_SHARDS,
  )({ default: 1, desc: `number of queues, 1 to ${MAX_SHARDS}, the same for every process` }),
  LOG_LEVEL: str({
    choices: ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
    default: 'info',
    desc: 'least severe level that is logged',
  }),
  INTERNAL_HOST: str({ default: undefined, desc: 'address of the internal port; all of them where it is not given' }),
  SHUTDOWN_TIMEOUT_MS: countBetween(
    1,
    MAX_TIMER_MS,
  )({ default: 15_000, desc: `milliseconds, 1 to ${MAX_TIMER_MS}, that a process may drain after SIGTERM` }),
};

/** Reads the environment by its spec; an empty variable counts as not given. @throws ConfigError */
export function parseEnv<Spec extends EnvSpec>(env: NodeJS.ProcessEnv, spec: Spec): Env<Spec> {
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
  return cleanEnv(given, spec, {
    reporter({ errors }) {
      const lines = Object.entries(errors).map(([name, error]) => {
        const { desc, choices } = spec[name] ?? {};
        const expected = choices ? `one of ${choices.join(', ')}` : desc;
        return `${name} ${error instanceof EnvMissingError ? 'is missing' : 'is not valid'}: ${expected ?? name}`;
      });
      if (lines.length > 0) throw new ConfigError(lines.join('\n'));
    },
  }) as Env<Spec>;
}

export { bool, str };
