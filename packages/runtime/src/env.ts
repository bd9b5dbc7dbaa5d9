import { readFileSync, statSync } from 'node:fs';
import { MAX_ANSWER_TIMEOUT_MS } from '@opm/core';
import { bool, cleanEnv, EnvMissingError, makeValidator, str, type ValidatorSpec } from 'envalid';

export type EnvSpec = Record<string, ValidatorSpec<unknown>>;
export type Env<Spec extends EnvSpec> = { [Name in keyof Spec]: Spec[Name] extends ValidatorSpec<infer T> ? T : never };

/** Lists every problem of the environment, one per line. It contains no values, because they may be secrets. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** A whole number of 1 or more. */
export const count = makeValidator((text) => parseWhole(text, 1, Number.MAX_SAFE_INTEGER));

/** A whole number from `min` to `max`, inclusive. */
export const wholeNumber = ({ min, max, ...spec }: { min: number; max: number; default: number; desc: string }) =>
  makeValidator((text) => parseWhole(text, min, max))(spec);

/** About 24 days. Node's timers fire at once if their delay is longer. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** A port to listen on; 0 lets the system choose a free one. */
export const port = makeValidator((text) => parseWhole(text, 0, 65_535));

function assertUrl(text: string, protocols: string[]): URL {
  if (!URL.canParse(text) || !protocols.includes(new URL(text).protocol)) throw new Error('not a URL of this protocol');
  if (!isEncoded(text)) throw new Error('not percent-encoded');
  return new URL(text);
}

/**
 * Whether the URL has no sign of a password that is not percent-encoded: white space, `#`, an `@` after the host, or
 * a `%` that starts no valid escape.
 */
function isEncoded(text: string): boolean {
  const { username, password, pathname, search } = new URL(text);
  try {
    decodeURIComponent(username + password + pathname);
  } catch {
    return false;
  }
  return !/[\s#]/.test(text) && !`${pathname}${search}`.includes('@');
}

/** Parameters that would override what each process sets: the time zone that it relies on, and its timeouts. */
const OWN_PARAMETERS = ['options', 'statement_timeout', 'query_timeout', 'lock_timeout'];
/** Schema of our tables. Prisma's migrations would use another schema if the URL named one. */
const SCHEMA = 'public';

const postgresUrl = makeValidator((text) => {
  const { searchParams } = assertUrl(text, ['postgresql:', 'postgres:']);
  if (OWN_PARAMETERS.some((name) => searchParams.has(name))) throw new Error('has a reserved parameter');
  if ((searchParams.get('schema') ?? SCHEMA) !== SCHEMA) throw new Error('names another schema');
  return text;
});

/** Allowed parameters. ioredis reads others, such as timeouts, which would override what each process sets. */
const REDIS_PARAMETERS = ['family'];

/** One URL, or the URLs of several nodes of a cluster, separated by commas. All nodes use the same credentials. */
const redisUrl = makeValidator((text) => {
  const nodes = text.split(',').map((url) => assertUrl(url, ['redis:', 'rediss:']));
  const parameters = nodes.flatMap(({ searchParams }) => [...searchParams.keys()]);
  if (parameters.some((name) => !REDIS_PARAMETERS.includes(name))) throw new Error('has a reserved parameter');
  const [first, ...others] = nodes.map(({ protocol, username, password }) => `${protocol} ${username} ${password}`);
  if (others.some((other) => other !== first)) throw new Error('not the same credentials');
  return text;
});

function parseWhole(text: string, least: number, most: number): number {
  const number = Number(text);
  if (!/^\d+$/.test(text) || number < least || number > most) throw new Error('not in range');
  return number;
}

/** Braces in the prefix would replace the hash tag of each shard's keys. */
const redisPrefix = makeValidator((text) => {
  if (/[{}]/.test(text)) throw new Error('has braces');
  return text;
});

/** Each shard needs its own share of a Redis Cluster's 16,384 hash slots. */
const MAX_SHARDS = 1_000;

const ENCODING = 'percent-encode every character of the user and password except letters and digits, such as @ as %40';

/** Variables that locate and configure the stores. */
export const STORE_ENV = {
  DATABASE_URL: postgresUrl({
    desc: `URL of PostgreSQL, such as postgresql://user:password@host:5432/opm; it must not set ${OWN_PARAMETERS.join(', ')} or a schema other than ${SCHEMA}; ${ENCODING}`,
  }),
  REDIS_URL: redisUrl({
    default: undefined,
    desc: `URL of Redis, such as redis://host:6379, or comma-separated URLs of Redis Cluster nodes; the only allowed parameter is ${REDIS_PARAMETERS}; if unset, the queue is in PostgreSQL; ${ENCODING}`,
  }),
  REDIS_MIN_REPLICAS: wholeNumber({
    min: 0,
    max: 100,
    default: 0,
    desc: 'number of Redis replicas that must have an entry before the ingress acknowledges it, 0 to 100',
  }),
  ANSWER_TIMEOUT_MS: wholeNumber({
    min: 100,
    max: MAX_ANSWER_TIMEOUT_MS,
    default: 1_000,
    desc: `milliseconds, 100 to ${MAX_ANSWER_TIMEOUT_MS}, within which a partner gets an answer even if a store is down`,
  }),
  REDIS_PREFIX: redisPrefix({ default: 'opm', desc: 'namespace of all keys on Redis, without { and }' }),
  QUEUE_SHARDS: wholeNumber({
    min: 1,
    max: MAX_SHARDS,
    default: 1,
    desc: `number of queues, 1 to ${MAX_SHARDS}, the same for every process`,
  }),
};

/** Variables that every process reads: the stores, the log level, the internal port and the shutdown. */
export const PROCESS_ENV = {
  ...STORE_ENV,
  LOG_LEVEL: str({
    choices: ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
    default: 'info',
    desc: 'least severe level to log',
  }),
  INTERNAL_HOST: str({ default: undefined, desc: 'address of the internal port; all addresses if unset' }),
  SHUTDOWN_TIMEOUT_MS: wholeNumber({
    min: 1,
    max: MAX_TIMER_MS,
    default: 15_000,
    desc: `milliseconds, 1 to ${MAX_TIMER_MS}, that a process may take to drain after SIGTERM`,
  }),
};

/** Variables that may hold a secret: with `_FILE` added to the name, each names a file that holds the value. */
const SECRETS = ['DATABASE_URL', 'REDIS_URL', 'CONSOLE_PASSWORD', 'OPM_KEY'];
const MAX_SECRET_BYTES = 64 * 1024;

/**
 * Replaces each NAME_FILE by NAME with the content of the file, without its last line end. Files keep secrets out of
 * the environment, which `docker inspect` and /proc show. An empty variable counts as not set. Leaves out variables
 * that are not in `names`, whose files the process may not be allowed to read. @throws ConfigError that lists every
 * problem
 */
export function readSecretFiles(env: NodeJS.ProcessEnv, names = SECRETS): NodeJS.ProcessEnv {
  const read = { ...env };
  const problems: string[] = [];
  for (const name of SECRETS.filter((secret) => names.includes(secret))) {
    const variable = `${name}_FILE`;
    const file = env[variable];
    if (!file) continue;
    if (env[name]) problems.push(`${name} and ${variable} are both set: set only one of them`);
    else if (file.includes('://')) problems.push(`${variable} is not valid: path of the file that holds ${name}`);
    else {
      const { value, problem } = readSecretFile(file);
      if (problem) problems.push(`${variable}: ${file} ${problem}`);
      Object.assign(read, { [name]: value, [variable]: undefined });
    }
  }
  if (problems.length > 0) throw new ConfigError(problems.join('\n'));
  return read;
}

function readSecretFile(file: string): { value?: string; problem?: string } {
  try {
    const stats = statSync(file);
    if (!stats.isFile()) return { problem: 'is not a file' };
    if (stats.size > MAX_SECRET_BYTES) return { problem: 'is larger than 64 KB' };
    const value = readFileSync(file, 'utf8').replace(/\r?\n$/, '');
    return value === '' ? { problem: 'is empty' } : { value };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return { problem: 'does not exist' };
    return { problem: code === 'EACCES' ? 'must be readable by the user of this process' : `cannot be read: ${code}` };
  }
}

/** Reads and checks the environment. An empty variable counts as not set. @throws ConfigError */
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

/** Variables of earlier releases. Constants have replaced them. */
const REMOVED = ['DATABASE_POOL_SIZE', 'LOOKUP_TIMEOUT_MS', 'STATEMENTS_IN_FLIGHT'];

/** The variables that are set and have no effect any more. */
export const findRemoved = (env: NodeJS.ProcessEnv): string[] => REMOVED.filter((name) => env[name]);

export { bool, str };
