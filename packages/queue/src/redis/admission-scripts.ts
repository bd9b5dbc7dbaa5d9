/*
 * A claim is a field of one of many small hashes, which Redis packs tightly: `projectId:customerId`, with its mark.
 * A mark is twice the version, plus 1 where the entry erases.
 */

const TO_MARK = `
local function toMark(version, erases)
  return string.format('%.0f', 2 * version + (erases and 1 or 0))
end`;

/**
 * KEYS: the shard's version, its backlog, then the hash of each entry's claim. ARGV: the project, one letter per entry
 * (`e` where it erases), then the fields. Answers with the first entry's version (the others follow it), the project's
 * backlog and, per entry, the mark that it replaced or nil.
 */
export const ADMIT = `${TO_MARK}
local entries = #KEYS - 2
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local base = math.max(clock, (tonumber(redis.call('GET', KEYS[1])) or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', base + entries - 1))
local answer = { base, redis.call('HINCRBY', KEYS[2], ARGV[1], entries) }
for i = 1, entries do
  local hash, field = KEYS[i + 2], ARGV[i + 2]
  answer[i + 2] = redis.call('HGET', hash, field)
  redis.call('HSET', hash, field, toMark(base + i - 1, string.sub(ARGV[2], i, i) == 'e'))
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
 * KEYS: the shard's backlog, then the hash of each entry's claim. ARGV: the project, then the fields, then the entries'
 * versions, then the marks that they had replaced or ''. Newest first: an entry may have replaced the claim of another
 * one of the same batch.
 */
export const RELEASE = `${ALLOW_OOM}${COUNT_DOWN}
local entries = #KEYS - 1
countDown(KEYS[1], ARGV[1], entries)
for i = entries, 1, -1 do
  local hash, field = KEYS[i + 1], ARGV[i + 1]
  local mark = redis.call('HGET', hash, field)
  if mark and math.floor(mark / 2) == tonumber(ARGV[entries + i + 1]) then
    local replaced = ARGV[2 * entries + i + 1]
    if replaced == '' then redis.call('HDEL', hash, field) else redis.call('HSET', hash, field, replaced) end
  end
end`;

/**
 * KEYS: the shard's backlog, then the hash of each persisted entry's claim. ARGV: the fields, then the entries' versions,
 * then projects, each with the number of its entries. A claim of a newer entry stays.
 */
export const SETTLE = `${ALLOW_OOM}${COUNT_DOWN}
local entries = #KEYS - 1
for i = 2 * entries + 1, #ARGV, 2 do countDown(KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = 1, entries do
  local hash, field = KEYS[i + 1], ARGV[i]
  local mark = redis.call('HGET', hash, field)
  if mark and tonumber(mark) <= 2 * ARGV[entries + i] + 1 then redis.call('HDEL', hash, field) end
end`;

/** KEYS: the shard's backlog. ARGV: what no project can have more of. */
export const LIMIT_BACKLOG = `${ALLOW_OOM}
local backlogs = redis.call('HGETALL', KEYS[1])
for i = 1, #backlogs, 2 do
  if tonumber(backlogs[i + 1]) > tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], backlogs[i], ARGV[1]) end
end`;

/** KEYS: one hash of claims. ARGV: the mark below which they go. */
export const SWEEP = `${ALLOW_OOM}
local claims = redis.call('HGETALL', KEYS[1])
for i = 1, #claims, 2 do
  if tonumber(claims[i + 1]) < tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], claims[i]) end
end`;
