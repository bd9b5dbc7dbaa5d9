import { RECORD_TTL_US, type Version } from '@opm/core';
import { type Idempotency, type PartRecord, RECORD_BYTES, RECORD_SAMPLE } from '../idempotency.js';
import { defineScripts, type Script } from './connect-redis.js';
import type { RedisClient } from './ioredis-workarounds.js';

type Scripts = {
  opmRemember: Script<(string | null)[]>;
  opmReadRecords: Script<(string | null)[]>;
  opmCloseRecords: Script<[index: number, state: string][]>;
  opmReadRecordBytes: Script<number>;
  opmSweepRecords: Script<number>;
};

/** The first byte of the state of an open part, and of a closed one. */
const OPEN = ':'.charCodeAt(0);
const CLOSED = '='.charCodeAt(0);

/** Records are grouped by periods of 12 hours. */
const PERIOD_US = RECORD_TTL_US / 2;

/** `unpack` of Lua can pass a few thousand values at a time. */
export const SLICE = 1000;

type Options = {
  keyspaces: string[];
  /** Limit of a project's records in one shard, in bytes. */
  maxBytes: () => number;
};

export function createRedisIdempotency(redis: RedisClient, { keyspaces, maxBytes }: Options): Idempotency {
  const scripts = defineScripts<Scripts>(redis, {
    opmRemember: REMEMBER,
    opmReadRecords: READ,
    opmCloseRecords: CLOSE,
    opmReadRecordBytes: READ_BYTES,
    opmSweepRecords: SWEEP_RECORDS,
  });
  function keysOf(shard: number): string[] {
    const keyspace = keyspaces[shard] as string;
    return [`${keyspace}:version`, ...toRecordKeys(keyspace)];
  }

  return {
    async remember(shard, requests) {
      const values = requests.map(({ fingerprint, projectId }) => fingerprint + projectId);
      return (await scripts.opmRemember(keysOf(shard), requests.map(toId), values)).map(parseRecord);
    },

    async read(shard, ids) {
      return (await scripts.opmReadRecords(keysOf(shard), ids)).map(parseRecord);
    },

    async close(shard, parts) {
      const values = parts.map(({ version, state }) => toDigits(version) + state);
      const keys = toRecordKeys(keyspaces[shard] as string).slice(0, 3);
      return new Map(await scripts.opmCloseRecords(keys, parts.map(toId), values));
    },

    readBytes: (shard, projectId) => scripts.opmReadRecordBytes(keysOf(shard), projectId),
    maxBytes,

    async forget() {
      await Promise.all(keyspaces.map((keyspace) => redis.del(...toRecordKeys(keyspace))));
    },

    async sweep() {
      const swept = keyspaces.map((_, shard) => scripts.opmSweepRecords(keysOf(shard)));
      return (await Promise.all(swept)).reduce((sum, count) => sum + count, 0);
    },
  };
}

/*
 * A shard's records are in three hashes, each with the records of every third period of 12 hours. Field: the id.
 * Value: 8 characters of the fingerprint, 16 digits of the version, the state. The field without a name has the number
 * of the period. A period's first record clears the hash of the third period before it, whose records have expired.
 *
 * Three more hashes count the bytes of each project's records in these periods.
 *
 * The time is the newest version, or Redis's clock if that is ahead.
 */

/** The keys of a shard's records: three hashes of records, three of bytes. */
export const toRecordKeys = (keyspace: string): string[] => [
  ...[0, 1, 2].map((place) => `${keyspace}:keyed:${place}`),
  ...[0, 1, 2].map((place) => `${keyspace}:keyed-bytes:${place}`),
];

export function parseRecord(value: string | null | undefined): PartRecord | undefined {
  if (!value) return undefined;
  return { fingerprint: value.slice(0, 8), version: Number(value.slice(8, 24)), state: value.slice(24) };
}

/** The inverse of `parseRecord`. */
export const formatRecord = ({ fingerprint, version, state }: PartRecord): string =>
  fingerprint + toDigits(version) + state;

const toId = ({ id }: { id: string }) => id;
const toDigits = (version: Version) => String(version).padStart(16, '0');

/**
 * Defines the functions that work on records.
 * @param from index of the first of `toRecordKeys` in KEYS; the shard's version is KEYS[1]
 */
export const defineRecords = (from: number): string => `
local call, format = redis.call, string.format
local isOpen, written, sampled = {}, {}, {}
local function readTime()
  local time = call('TIME')
  return math.max(time[1] * 1000000 + time[2], tonumber(call('GET', KEYS[1]) or 0))
end
local function periodOf(version) return math.floor(version / ${PERIOD_US}) end
local function recordsOf(period) return KEYS[${from} + period % 3] end
local function bytesOf(period) return KEYS[${from + 3} + period % 3] end
local function hasRecords(period)
  if isOpen[period] == nil then isOpen[period] = call('HGET', recordsOf(period), '') == format('%d', period) end
  return isOpen[period]
end
local function openPeriod(period)
  if hasRecords(period) then return end
  call('UNLINK', recordsOf(period), bytesOf(period))
  call('HSET', recordsOf(period), '', format('%d', period))
  isOpen[period] = true
end
local function findRecords(ids, from, to, now)
  local found, period = {}, periodOf(now)
  for p = period, period - 2, -1 do
    for first = from, hasRecords(p) and to or 0, ${SLICE} do
      local values = call('HMGET', recordsOf(p), unpack(ids, first, math.min(first + ${SLICE - 1}, to)))
      for i, value in ipairs(values) do
        local place = first - from + i
        if value and not found[place] and value:sub(9, 24) + ${RECORD_TTL_US} > now then found[place] = value end
      end
    end
  end
  return found
end
local function setRecords(period, fields)
  for first = 1, #fields, ${SLICE} do
    call('HSET', recordsOf(period), unpack(fields, first, math.min(first + ${SLICE - 1}, #fields)))
  end
end
local function addRecord(id, version, value, size, entry)
  local period = periodOf(version)
  local fields = written[period] or {}
  written[period] = fields
  fields[#fields + 1] = id
  fields[#fields + 1] = value
  if version % ${RECORD_SAMPLE} ~= 0 then return end
  local project, bytes = entry:match('^%d+'), ${RECORD_SAMPLE} * (${RECORD_BYTES} + math.ceil(size / 4))
  sampled[project] = (sampled[project] or 0) + bytes
end
local function countBytes(project, period)
  local bytes = 0
  for p = period, period - 2, -1 do
    if hasRecords(p) then bytes = bytes + (call('HGET', bytesOf(p), project) or 0) end
  end
  return bytes
end
local function writeRecords(now)
  local ofProjects, period = {}, periodOf(now)
  for p, fields in pairs(written) do
    openPeriod(p)
    setRecords(p, fields)
  end
  for project, bytes in pairs(sampled) do
    openPeriod(period)
    call('HINCRBY', bytesOf(period), project, bytes)
    ofProjects[#ofProjects + 1] = project
    ofProjects[#ofProjects + 1] = countBytes(project, period)
  end
  return ofProjects
end`;

/** KEYS of the scripts below: 1 the shard's version, 2… its `toRecordKeys`. */
const RECORDS = defineRecords(2);

/** ARGV: the ids; then per request its fingerprint and its project in one text. Returns the records found, in order. */
const REMEMBER = `${RECORDS}
local now, requests = readTime(), #ARGV / 2
local found, seen = findRecords(ARGV, 1, requests, now), {}
for i = 1, requests do
  local id, request = ARGV[i], ARGV[requests + i]
  found[i] = found[i] or seen[id] or ''
  if found[i] == '' then
    seen[id] = format('%.8s%016d', request, now)
    addRecord(id, now, seen[id], 0, request:sub(9))
  end
end
writeRecords(now)
return found`;

/** ARGV: the ids. Returns the records found, in order. */
const READ = `${RECORDS}
local found = findRecords(ARGV, 1, #ARGV, readTime())
for i = 1, #ARGV do found[i] = found[i] or '' end
return found`;

/**
 * KEYS: the three hashes of records. ARGV: the ids; then per part its version (16 digits) and its new state in one
 * text. Returns the index and the state of each part whose state differs from the given one. It also runs while memory
 * is full, because the entries are queued. Does not include RECORDS: defining its functions takes longer than closing a
 * part.
 */
const CLOSE = `#!lua flags=allow-oom
local parts, first, merged = #ARGV / 2, 1, {}
local function periodOf(place) return math.floor(ARGV[parts + place]:sub(1, 16) / ${PERIOD_US}) end
local function merge(a, b)
  local digits = { a:match('^=%d+:') }
  for i = #digits[1] + 1, #a do
    digits[#digits + 1] = string.format('%x', bit.band(tonumber(a:sub(i, i), 16), tonumber(b:sub(i, i), 16)))
  end
  return table.concat(digits)
end
while first <= parts do
  local last, period = first, periodOf(first)
  while last < parts and last < first + ${SLICE - 1} and periodOf(last + 1) == period do last = last + 1 end
  local records, closed = KEYS[1 + period % 3], {}
  for i, value in ipairs(redis.call('HMGET', records, unpack(ARGV, first, last))) do
    local part = ARGV[parts + first + i - 1]
    local kind = value and value:sub(9, 24) == part:sub(1, 16) and value:byte(25)
    local state = part:sub(17)
    if kind == ${CLOSED} and value:sub(25) ~= state then
      local given = state
      state = merge(value:sub(25), given)
      if state ~= given then merged[#merged + 1] = { first + i - 2, state } end
    end
    if kind == ${OPEN} or kind == ${CLOSED} then
      closed[#closed + 1] = ARGV[first + i - 1]
      closed[#closed + 1] = value:sub(1, 24) .. state
    end
  end
  for i = 1, #closed, ${SLICE} do
    redis.call('HSET', records, unpack(closed, i, math.min(i + ${SLICE - 1}, #closed)))
  end
  first = last + 1
end
return merged`;

/** ARGV: the project. */
const READ_BYTES = `${RECORDS}
return countBytes(ARGV[1], periodOf(readTime()))`;

/** Removes the records of periods that are over. Returns the number of periods. */
const SWEEP_RECORDS = `#!lua flags=allow-oom
${RECORDS}
local oldest, swept = periodOf(readTime()) - 2, 0
for place = 0, 2 do
  local period = call('HGET', recordsOf(place), '')
  if period and tonumber(period) < oldest then
    call('UNLINK', recordsOf(place), bytesOf(place))
    swept = swept + 1
  end
end
return swept`;
