import { SAMPLE } from '../chunk.js';

/*
 * The claims of a shard are one hash. Field: `projectId:customerId`. Value: a mark, which is twice the version, plus
 * 1 if the entry is an erasure. While the hash has claims, it also has a field without a name. The value of that
 * field is too long for Redis to store the hash in its packed form, in which each look-up scans the hash from its
 * start.
 *
 * The pending erasures are another hash with the same fields. Value: the mark of the newest erasure that is not
 * persisted.
 *
 * `unpack` of Lua can pass a few thousand values at a time, hence the slices.
 */

const SLICE = 1000;

const DROP_IF_EMPTY = `
local function dropIfEmpty(claims)
  if redis.call('HLEN', claims) == 1 and redis.call('HEXISTS', claims, '') == 1 then redis.call('DEL', claims) end
end`;

/**
 * KEYS: 1 the shard's version, 2 the backlogs of its projects, 3 its claims, 4 its pending erasures, 5 its number of
 * waiting entries.
 * ARGV: 1 a string with `1` for each erasure and `0` for each other entry, or empty if there is no erasure; 2 a
 * version that the new ones must be above; 3 `1` if ARGV[2] is at least every row's version, else `0`; 4… the
 * entries' fields.
 * Returns the first entry's version (the others follow one by one), the backlogs of the projects of the sampled
 * entries (see `countSampled`) and, per entry, the mark that it replaced, or nil. Returns nil if the shard has no
 * version and ARGV[3] is `0`.
 */
export const ADMIT = `
local call, format = redis.call, string.format
local claims, entries = KEYS[3], #ARGV - 3
local newestVersion = call('GET', KEYS[1])
if not newestVersion and ARGV[3] == '0' then return nil end
local time = call('TIME')
local base = math.max(time[1] * 1000000 + time[2], (tonumber(newestVersion) or 0) + 1, ARGV[2] + 1)
call('SET', KEYS[1], format('%d', base + entries - 1))
call('INCRBY', KEYS[5], entries)
local backlogs = {}
for place = -base % ${SAMPLE}, entries - 1, ${SAMPLE} do
  local project = ARGV[place + 4]:match('^%d+')
  backlogs[#backlogs + 1] = call('HINCRBY', KEYS[2], project, ${SAMPLE})
end
if call('EXISTS', claims) == 0 then call('HSET', claims, '', string.rep('-', 65)) end
local replaced, newest = {}, {}
for first = 1, entries, ${SLICE} do
  local last = math.min(first + ${SLICE - 1}, entries)
  local marks = call('HMGET', claims, unpack(ARGV, first + 3, last + 3))
  local claimed = {}
  for i = first, last do
    local field, erases = ARGV[i + 3], ARGV[1]:byte(i) == 49
    local mark = format('%d', 2 * (base + i - 1) + (erases and 1 or 0))
    replaced[i] = newest[field] or marks[i - first + 1]
    newest[field] = mark
    claimed[#claimed + 1] = field
    claimed[#claimed + 1] = mark
    if erases then call('HSET', KEYS[4], field, mark) end
  end
  call('HSET', claims, unpack(claimed))
end
return { base, backlogs, replaced }`;

/** Scripts that remove something must also run while memory is full. */
const ALLOW_OOM = '#!lua flags=allow-oom\n';

/**
 * Defines `count`, which changes the backlogs and the number of waiting entries. ARGV, from index `from` on, has
 * `projects` pairs of project id and sampled count. `sign` is -1 for entries that leave. A job that runs twice counts
 * its entries down twice, but never below zero. A project without a backlog has no field.
 */
const COUNT = `
local backlogs = {}
local function count(ofProjects, waiting, sign, entries, projects, from)
  if redis.call('INCRBY', waiting, sign * entries) <= 0 then redis.call('DEL', waiting) end
  for i = from, from + 2 * projects - 2, 2 do
    local backlog = redis.call('HINCRBY', ofProjects, ARGV[i], sign * ARGV[i + 1])
    if backlog <= 0 then redis.call('HDEL', ofProjects, ARGV[i]) end
    backlogs[#backlogs + 1] = backlog
  end
end`;

/**
 * KEYS: 1 the backlogs, 2 the number of waiting entries. ARGV: 1 the number of entries, 2 the number of projects, 3…
 * their ids and counts. Returns the projects' backlogs.
 */
export const ADD_TO_BACKLOG = `${ALLOW_OOM}${COUNT}
count(KEYS[1], KEYS[2], 1, ARGV[1], ARGV[2], 3)
return backlogs`;

/**
 * KEYS: 1 the backlogs, 2 the number of waiting entries, 3 the claims, 4 the pending erasures.
 * ARGV: the number of projects, their ids and counts; then per entry its field, its version and the mark that it
 * replaced, or ''. Releases the newest entry first, because an entry may have replaced the claim of another entry of
 * the batch.
 */
export const RELEASE = `${ALLOW_OOM}${COUNT}${DROP_IF_EMPTY}
local claims, first = KEYS[3], 2 + 2 * ARGV[1]
count(KEYS[1], KEYS[2], -1, (#ARGV - first + 1) / 3, ARGV[1], 2)
for i = #ARGV - 2, first, -3 do
  local field, version, replaced = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local mark = redis.call('HGET', claims, field)
  if mark and math.floor(mark / 2) == version then
    if replaced == '' then redis.call('HDEL', claims, field) else redis.call('HSET', claims, field, replaced) end
  end
  if tonumber(redis.call('HGET', KEYS[4], field) or 0) == 2 * version + 1 then
    local isErasure = replaced ~= '' and replaced % 2 == 1
    if isErasure then redis.call('HSET', KEYS[4], field, replaced) else redis.call('HDEL', KEYS[4], field) end
  end
end
dropIfEmpty(claims)`;

/**
 * KEYS: 1 the backlogs, 2 the number of waiting entries, 3 the claims, 4 the pending erasures.
 * ARGV: the number of projects, their ids and counts; the number of runs (entries with consecutive claims); per run its
 * number of entries and its newest version; then the fields of all entries.
 * Keeps the claim of a newer entry, and a pending erasure that is not the entry itself.
 */
export const SETTLE = `${ALLOW_OOM}${COUNT}${DROP_IF_EMPTY}
local call, claims = redis.call, KEYS[3]
local hasErasures = call('EXISTS', KEYS[4]) == 1
local runs = 2 + 2 * ARGV[1]
local first = runs + 1 + 2 * ARGV[runs]
count(KEYS[1], KEYS[2], -1, #ARGV - first + 1, ARGV[1], 2)
for i = runs + 1, runs + 2 * ARGV[runs] - 1, 2 do
  local entries, newest = tonumber(ARGV[i]), 2 * ARGV[i + 1] + 1
  local last = first + entries - 1
  for from = first, last, ${SLICE} do
    local persisted, marks = {}, call('HMGET', claims, unpack(ARGV, from, math.min(from + ${SLICE - 1}, last)))
    for j, mark in ipairs(marks) do
      local k = from + j - 1
      if mark and tonumber(mark) <= newest - 2 * (last - k) then persisted[#persisted + 1] = ARGV[k] end
    end
    if #persisted > 0 then call('HDEL', claims, unpack(persisted)) end
    if hasErasures then
      for j, mark in ipairs(call('HMGET', KEYS[4], unpack(ARGV, from, math.min(from + ${SLICE - 1}, last)))) do
        local k = from + j - 1
        if mark and tonumber(mark) == newest - 2 * (last - k) then call('HDEL', KEYS[4], ARGV[k]) end
      end
    end
  end
  first = last + 1
end
dropIfEmpty(claims)`;

/**
 * Sweeps one page of the claims or of the pending erasures. KEYS: 1 the hash. ARGV: 1 the cursor of HSCAN, 2 the
 * version below which marks are removed. Returns the next cursor.
 */
export const SWEEP = `${ALLOW_OOM}${DROP_IF_EMPTY}
local oldest = 2 * ARGV[2]
local cursor, found = unpack(redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ${SLICE}))
for i = 1, #found, 2 do
  if found[i] ~= '' and tonumber(found[i + 1]) < oldest then redis.call('HDEL', KEYS[1], found[i]) end
end
if cursor == '0' then dropIfEmpty(KEYS[1]) end
return cursor`;

/**
 * KEYS: 1 the number of shards. ARGV: 1 the new number, 2 the number that it may replace. Returns the number then
 * stored.
 */
export const SET_SHARDS = `
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[2] then return found end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]`;
