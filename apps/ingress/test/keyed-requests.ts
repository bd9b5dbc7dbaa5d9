import { expect } from '@jest/globals';
import { type Backend, query, type TestApp, withRedis } from '@opm/testkit';

export type Sent = {
  key?: string;
  method?: string;
  path?: string;
  body?: string;
  headers?: Record<string, string>;
  apiKey?: string;
};
export type Answer = {
  status: number;
  body: string;
  replayed: boolean;
  retryAfter: string | null;
  receipt: string | null;
};

const UNREPEATED = { replayed: false, retryAfter: null };
const ACCEPTED = { ...UNREPEATED, receipt: expect.any(String) as never };
export const CREATED: Answer = { ...ACCEPTED, status: 201, body: '{"statusCode":201,"message":"OK - Created"}' };
export const UPDATED: Answer = {
  ...ACCEPTED,
  status: 202,
  body: '{"statusCode":202,"message":"OK - Update accepted"}',
};
export const REUSED: Answer = {
  ...{ ...UNREPEATED, status: 422, receipt: null },
  body: '{"statusCode":422,"error":"Unprocessable Entity","message":"idempotency key belongs to another request"}',
};
export const replayOf = (answer: Answer): Answer => ({ ...answer, replayed: true });

const MAX_ATTEMPTS = 50;

export async function send(
  ingress: TestApp,
  { key, method = 'POST', path = '/entry', ...sent }: Sent,
): Promise<Answer> {
  const { body, headers, apiKey = '' } = sent;
  const response = await fetch(ingress.url + path, {
    method,
    headers: { 'x-api-key': apiKey, ...(key !== undefined && { 'idempotency-key': key }), ...headers },
    ...(body !== undefined && { body }),
  });
  return {
    status: response.status,
    body: await response.text(),
    replayed: response.headers.get('idempotent-replayed') === 'true',
    retryAfter: response.headers.get('retry-after'),
    receipt: response.headers.get('receipt'),
  };
}

/** Repeats a request that got a 503, as a partner does; a busy machine may refuse some. */
export async function sendUntilAnswered(ingress: TestApp, sent: Sent, on503 = () => {}): Promise<Answer> {
  for (let attempt = 1; ; attempt++) {
    const answer = await send(ingress, sent);
    if (attempt === MAX_ATTEMPTS || (answer.status !== 503 && !answer.body.includes('"statusCode":503'))) return answer;
    on503();
  }
}

/** A record of an idempotency key as in the store, without the number of its project. `text`: all that is stored. */
type StoredRecord = { id: string; version: number; state: string; text: string };

const VERSION = { start: 8, end: 24 };

export async function readRecords({ redisUrl, prefix, databaseUrl }: Backend): Promise<StoredRecord[]> {
  if (redisUrl === undefined) {
    const text = 'SELECT id, version::float AS version, state, r::text AS text FROM admission.idempotency_records r';
    return query(databaseUrl, text);
  }
  return withRedis(redisUrl, async (redis) => {
    const hashes = await Promise.all((await redis.keys(`{${prefix}-*}:keyed:*`)).map((key) => redis.hgetall(key)));
    const records = hashes.flatMap((hash) => Object.entries(hash)).filter(([id]) => id !== '');
    return records.map(([id, value]) => ({
      ...{ id, version: Number(value.slice(VERSION.start, VERSION.end)), state: value.slice(VERSION.end) },
      text: `${id} ${value}`,
    }));
  });
}

/** A record without its verdicts: its request is on its way, or got no answer. */
const isOpen = ({ state }: StoredRecord) => state.startsWith(':');

/** Must hold as soon as all requests are answered. */
export async function expectVerdictsStored(backend: Backend): Promise<void> {
  expect((await readRecords(backend)).filter(isOpen)).toEqual([]);
}

const PERIOD_US = 43_200_000_000;

/** Makes all records older by this time. */
export async function ageRecords({ redisUrl, prefix, databaseUrl }: Backend, ms: number): Promise<void> {
  const us = ms * 1_000;
  if (redisUrl === undefined) {
    await query(databaseUrl, 'UPDATE admission.idempotency_records SET version = version - $1', [us]);
    return;
  }
  await withRedis(redisUrl, async (redis) => {
    const tags = (await redis.keys(`{${prefix}-*}:keyed:*`)).map((key) => key.slice(0, key.lastIndexOf(':')));
    for (const tag of new Set(tags)) {
      const records: [id: string, value: string][] = [];
      for (const place of [0, 1, 2]) {
        const { '': _period, ...hash } = await redis.hgetall(`${tag}:${place}`);
        records.push(...Object.entries(hash));
        await redis.del(`${tag}:${place}`);
      }
      for (const [id, value] of records) {
        const version = Number(value.slice(VERSION.start, VERSION.end)) - us;
        const period = Math.floor(version / PERIOD_US);
        const aged = value.slice(0, VERSION.start) + String(version).padStart(16, '0') + value.slice(VERSION.end);
        await redis.hset(`${tag}:${period % 3}`, '', period, id, aged);
      }
    }
  });
}

/** The newest version of each shard. */
export async function readVersions({ redisUrl, prefix, databaseUrl }: Backend): Promise<string[]> {
  if (redisUrl === undefined) {
    const text = 'SELECT shard, last_version::text AS version FROM admission.shards ORDER BY shard';
    return (await query<{ shard: number; version: string }>(databaseUrl, text)).map(
      ({ shard, version }) => `${shard} ${version}`,
    );
  }
  return withRedis(redisUrl, async (redis) => {
    const keys = (await redis.keys(`{${prefix}-*}:version`)).sort();
    return Promise.all(keys.map(async (key) => `${key} ${await redis.get(key)}`));
  });
}
