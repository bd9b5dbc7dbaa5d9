import { deflateRawSync, inflateRawSync } from 'node:zlib';
import {
  type Idempotency,
  type KeyedRequest,
  type KeyState,
  STORED_OVERHEAD,
  type StoredResponse,
} from '../idempotency.js';
import type { RedisClient } from './ioredis-workarounds.js';

type Script = (keyCount: number, ...keysAndArguments: (string | number)[]) => Promise<string[]>;
type Scripts = { opmBegin: Script; opmEnd: Script };

/** Bodies from this length on are compressed. Responses to batches are repetitive and shrink to a hundredth. */
const DEFLATE_FROM_LENGTH = 512;

type Options = {
  keyspaceOf: (shard: number) => string;
  /** Limit of a project's stored responses in one shard, in bytes. */
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
    async begin(shard, projectId, requests, lockMs) {
      const keys = toKeys(shard, projectId, requests);
      const found = await scripts.opmBegin(keys.length, ...keys, lockMs, maxBytes(), ...requests.map(toBegun));
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

function parseFound(value: string | undefined, { fingerprint }: KeyedRequest): KeyState {
  if (!value) return { state: 'first' };
  if (value === NO_ROOM) return { state: 'no-room' };
  if (!value.startsWith(fingerprint)) return { state: 'other' };
  const rest = value.slice(fingerprint.length);
  return rest.startsWith(':') ? { state: 'in-flight' } : { state: 'answered', answer: unpack(rest.slice(1)) };
}

/** Packs a response: the three digits of the status, then the body, or `~` and the deflated body in base64. */
function pack({ status, body }: StoredResponse): string {
  return body.length < DEFLATE_FROM_LENGTH
    ? `${status}${body}`
    : `${status}~${deflateRawSync(body, { level: 1 }).toString('base64')}`;
}

function unpack(packed: string): StoredResponse {
  const [status, body] = [Number(packed.slice(0, 3)), packed.slice(3)];
  if (!body.startsWith('~')) return { status, body };
  return { status, body: inflateRawSync(Buffer.from(body.slice(1), 'base64')).toString() };
}

/*
 * A key's value is the fingerprint of its request, followed by `:` and the token of the attempt in flight, or by `=`
 * and the packed response. It expires with the key lock, or with the stored response.
 *
 * A hash per project and shard counts the bytes of stored responses. Field: the hour in which they expire, in hours
 * since 1970. Value: bytes.
 */

/** What BEGIN returns for a new key of a project at its limit. */
const NO_ROOM = '!';

/**
 * KEYS: 1 the project's byte counts, 2… the requests' keys. ARGV: 1 the key lock in ms, 2 the project's limit in
 * bytes, 3… the value of each request. Returns per request the value found, '' if there was none, or NO_ROOM.
 */
const BEGIN = `
local call = redis.call
local function hasRoom()
  local hour, bytes, kept = math.floor(call('TIME')[1] / 3600), 0, call('HGETALL', KEYS[1])
  for i = 1, #kept, 2 do
    if tonumber(kept[i]) >= hour then bytes = bytes + kept[i + 1] else call('HDEL', KEYS[1], kept[i]) end
  end
  return bytes < tonumber(ARGV[2])
end
local answer, room = {}, nil
for i = 2, #KEYS do
  local found = call('GET', KEYS[i])
  if not found then
    if room == nil then room = hasRoom() end
    if room then call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) else found = '${NO_ROOM}' end
  end
  answer[i - 1] = found or ''
end
return answer`;

/**
 * KEYS: like BEGIN. ARGV: 1 how long to store responses, in ms, then per request the value that BEGIN set and the new
 * value, or '' if it has no response. Returns per request the value that another attempt has set since, or ''. It
 * also runs while memory is full, because the entry is already queued.
 */
const END = `#!lua flags=allow-oom
local call = redis.call
local answer, bytes = {}, 0
for i = 2, #KEYS do
  local begun, ended = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local found = call('GET', KEYS[i])
  answer[i - 1] = ''
  if ended == '' then
    if found == begun then call('DEL', KEYS[i]) end
  elseif not found or found == begun then
    call('SET', KEYS[i], ended, 'PX', ARGV[1])
    bytes = bytes + ${STORED_OVERHEAD} + #ended
  else
    answer[i - 1] = found
  end
end
if bytes > 0 then
  local hour = math.floor((call('TIME')[1] + ARGV[1] / 1000) / 3600)
  call('HINCRBY', KEYS[1], hour, bytes)
  local over = (hour + 1) * 3600
  if call('EXPIRETIME', KEYS[1]) < over then call('EXPIREAT', KEYS[1], over) end
end
return answer`;
