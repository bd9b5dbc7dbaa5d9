/*
 * A claim is a field of one of many small hashes, which Redis packs tightly: `projectId:customerId`, with its mark.
 * A mark is twice the version, plus 1 where the entry erases.
 *
 * Entries come as columns in one argument, packed with MessagePack (https://redis.io/docs/latest/develop/programmability/lua-api/#cmsgpack-library):
 * each argument of its own would cost both sides more than the rest of it. The first two columns are the numbers of the
 * entries' hashes and their fields. A hash's key is its number behind the prefix, which stands for all of them in KEYS: the
 * hash tag in it keeps them on one node.
 */

const TO_MARK = `
local function toMark(version, erases)
  return string.format('%.0f', 2 * version + (erases and 1 or 0))
end`;

/**
 * KEYS: the shard's version, its backlog, the prefix of its claims. ARGV: the project, then the entries: hashes, fields,
 * whether each erases. Answers with the first entry's version (the others follow it), the project's backlog and, per
 * entry, the mark that it replaced or nil.
 */
export const ADMIT = `${TO_MARK}
local hashes, fields, erases = unpack(cmsgpack.unpack(ARGV[2]))
local entries = #fields
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local base = math.max(clock, (tonumber(redis.call('GET', KEYS[1])) or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', base + entries - 1))
local answer = { base, redis.call('HINCRBY', KEYS[2], ARGV[1], entries) }
for i = 1, entries do
  local hash, field = KEYS[3] .. hashes[i], fields[i]
  answer[i + 2] = redis.call('HGET', hash, field)
  redis.call('HSET', hash, field, toMark(base + i - 1, erases[i]))
end
return answer`;

/** What takes something away must work where memory is full, too. */
const ALLOW_OOM = '#!lua flags=allow-oom\n';

/** A project without a backlog has no field. It may be counted down twice, when a job is done twice, but not below zero. */
const COUNT_DOWN = `
local function countDown(backlog, project, entries)
  if redis.call('HINCRBY', backlog, project, -entries) <= 0 then redis.call('HDEL', backlog, project) end
end`;

/**
 * KEYS: the shard's backlog, the prefix of its claims. ARGV: the project, then the entries: hashes, fields, versions, and
 * the marks that they had replaced or ''. Newest first: an entry may have replaced the claim of another one of the same batch.
 */
export const RELEASE = `${ALLOW_OOM}${COUNT_DOWN}
local hashes, fields, versions, marks = unpack(cmsgpack.unpack(ARGV[2]))
countDown(KEYS[1], ARGV[1], #fields)
for i = #fields, 1, -1 do
  local hash, field = KEYS[2] .. hashes[i], fields[i]
  local mark = redis.call('HGET', hash, field)
  if mark and math.floor(mark / 2) == versions[i] then
    if marks[i] == '' then redis.call('HDEL', hash, field) else redis.call('HSET', hash, field, marks[i]) end
  end
end`;

/**
 * KEYS: the shard's backlog, the prefix of its claims. ARGV: the persisted entries: hashes, fields, versions; then
 * projects, each with the number of its entries. A claim of a newer entry stays.
 */
export const SETTLE = `${ALLOW_OOM}${COUNT_DOWN}
local hashes, fields, versions = unpack(cmsgpack.unpack(ARGV[1]))
local call, claims = redis.call, KEYS[2]
for i = 2, #ARGV, 2 do countDown(KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = 1, #fields do
  local hash, field = claims .. hashes[i], fields[i]
  local mark = call('HGET', hash, field)
  if mark and tonumber(mark) <= 2 * versions[i] + 1 then call('HDEL', hash, field) end
end`;

/** KEYS: the shard's backlog. ARGV: what no project can have more of. */
export const LIMIT_BACKLOG = `${ALLOW_OOM}
local backlogs = redis.call('HGETALL', KEYS[1])
for i = 1, #backlogs, 2 do
  if tonumber(backlogs[i + 1]) > tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], backlogs[i], ARGV[1]) end
end`;

/** KEYS: hashes of claims. ARGV: the age in microseconds above which they go. */
export const SWEEP = `${ALLOW_OOM}
local time = redis.call('TIME')
local oldest = 2 * (time[1] * 1000000 + time[2] - ARGV[1])
for _, hash in ipairs(KEYS) do
  local claims = redis.call('HGETALL', hash)
  for i = 1, #claims, 2 do
    if tonumber(claims[i + 1]) < oldest then redis.call('HDEL', hash, claims[i]) end
  end
end`;
