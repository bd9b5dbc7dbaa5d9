import { SAMPLE } from '../backlog-sample.js';

/*
 * The claims of a shard are fields of one hash: `projectId:customerId`, with a mark that is twice the version, plus 1 where
 * the entry erases. As long as there are any there is a field without a name, too, whose value is too long for Redis to
 * pack the hash as it does small ones: it would read a packed one from its start for each field.
 *
 * The pending erasures are the fields of another hash, with the marks of the newest erasures that are not persisted.
 *
 * Lua can hand over some thousand values at a time, hence the slices.
 */

const SLICE = 1000;

const DROP_IF_EMPTY = `
local function dropIfEmpty(claims)
  if redis.call('HLEN', claims) == 1 and redis.call('HEXISTS', claims, '') == 1 then redis.call('DEL', claims) end
end`;

/**
 * KEYS: the shard's version, the backlogs of its projects, its claims, its pending erasures, the number of entries that wait.
 * ARGV: a text with 1 for each entry that erases and 0 for the others, or an empty one where none does; a version that those
 * given are above; 1 where that is above all rows' versions, else 0; the entries' fields. Answers with the first entry's
 * version (the others follow it), the backlogs of the projects of those entries that count (see `countSampled`) and, per
 * entry, the mark that it replaced or nil. Answers with nil if the shard's version is not there and ARGV[3] is 0.
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

/** What takes something away must work where memory is full, too. */
const ALLOW_OOM = '#!lua flags=allow-oom\n';

/**
 * KEYS: the backlogs, the number of entries that wait. ARGV: how many projects are named from the given place on, each with what
 * it counts. `sign` is -1 for entries that go. Entries may be counted down twice, when a job is done twice, but not below zero.
 * A project without a backlog has no field.
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

/** KEYS: the backlogs, the number of entries that wait. ARGV: entries, projects, and those. Answers with the backlogs. */
export const ADD_TO_BACKLOG = `${ALLOW_OOM}${COUNT}
count(KEYS[1], KEYS[2], 1, ARGV[1], ARGV[2], 3)
return backlogs`;

/**
 * KEYS: the backlogs, the number of entries that wait, the claims, the pending erasures. ARGV: the number of projects, and
 * those; per entry its field, its version and the mark that it had replaced or ''. Newest first: an entry may have replaced the
 * claim of another one of the same batch.
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
 * KEYS: the backlogs, the number of entries that wait, the claims, the pending erasures. ARGV: the number of projects, and
 * those; the number of runs; per run of entries whose claims follow one another: number of entries, newest version; then the
 * fields of all. A claim of a newer entry than the run's own stays, and so does a pending erasure other than the entry itself.
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
 * A part of the claims, or of the pending erasures. KEYS: that hash. ARGV: the cursor of HSCAN, the version below which they go.
 * Answers with the next cursor.
 */
export const SWEEP = `${ALLOW_OOM}${DROP_IF_EMPTY}
local oldest = 2 * ARGV[2]
local cursor, found = unpack(redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ${SLICE}))
for i = 1, #found, 2 do
  if found[i] ~= '' and tonumber(found[i + 1]) < oldest then redis.call('HDEL', KEYS[1], found[i]) end
end
if cursor == '0' then dropIfEmpty(KEYS[1]) end
return cursor`;

/** KEYS: the number of shards. ARGV: the new one, and the one that it may replace. Answers with the one that is there then. */
export const SET_SHARDS = `
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[2] then return found end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]`;
