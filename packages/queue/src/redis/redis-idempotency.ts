import { deflateRawSync, inflateRawSync } from 'node:zlib';
import type { Idempotency, KeptAnswer, KeyedRequest, Known } from '../idempotency.js';
import type { RedisClient } from './connect-redis.js';
import { BEGIN, END, NO_ROOM } from './idempotency-scripts.js';

type Script = (keyCount: number, ...keysAndArguments: (string | number)[]) => Promise<string[]>;
type Scripts = { opmBegin: Script; opmEnd: Script };

/** Answers to batches say the same again and again: they take a hundredth. */
const DEFLATE_FROM_LENGTH = 512;

type Options = {
  keyspaceOf: (shard: number) => string;
  /** What the answers of a project may take in one shard, in bytes. */
  maxBytes: () => number;
};

export function createRedisIdempotency(redis: RedisClient, { keyspaceOf, maxBytes }: Options): Idempotency {
  redis.defineCommand('opmBegin', { lua: BEGIN });
  redis.defineCommand('opmEnd', { lua: END });
  const scripts = redis as unknown as Scripts;
  const toKeys = (shard: number, projectId: number, requests: KeyedRequest[]) => [
    `${keyspaceOf(shard)}:idempotency-bytes:${projectId}`,
    ...requests.map(({ id }) => `${keyspaceOf(shard)}:idempotency:${id}`),
  ];

  return {
    async begin(shard, projectId, requests, leaseMs) {
      const keys = toKeys(shard, projectId, requests);
      const found = await scripts.opmBegin(keys.length, ...keys, leaseMs, maxBytes(), ...requests.map(toBegun));
      return requests.map((request, i) => parseFound(found[i], request));
    },

    async end(shard, projectId, requests, keepMs) {
      const keys = toKeys(shard, projectId, requests);
      const values = requests.flatMap((request) => [
        toBegun(request),
        request.answer ? `${request.fingerprint}=${pack(request.answer)}` : '',
      ]);
      const found = await scripts.opmEnd(keys.length, ...keys, keepMs, ...values);
      return requests.map((request, i) => parseFound(found[i], request));
    },

    sweep: async () => 0,
  };
}

const toBegun = ({ fingerprint, token }: KeyedRequest) => `${fingerprint}:${token}`;

function parseFound(value: string | undefined, { fingerprint }: KeyedRequest): Known {
  if (!value) return { state: 'first' };
  if (value === NO_ROOM) return { state: 'no-room' };
  if (!value.startsWith(fingerprint)) return { state: 'other' };
  const rest = value.slice(fingerprint.length);
  return rest.startsWith(':') ? { state: 'in-flight' } : { state: 'answered', answer: unpack(rest.slice(1)) };
}

/** The status's three digits and the body; or with a `~` between them, where the body is deflated. */
function pack({ status, body }: KeptAnswer): string {
  return body.length < DEFLATE_FROM_LENGTH
    ? `${status}${body}`
    : `${status}~${deflateRawSync(body, { level: 1 }).toString('base64')}`;
}

function unpack(packed: string): KeptAnswer {
  const [status, body] = [Number(packed.slice(0, 3)), packed.slice(3)];
  if (!body.startsWith('~')) return { status, body };
  return { status, body: inflateRawSync(Buffer.from(body.slice(1), 'base64')).toString() };
}
