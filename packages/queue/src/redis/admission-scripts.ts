import { SAMPLE } from '../chunk.js';
import { defineRecords, SLICE } from './redis-idempotency.js';

/*
 * The claims of a shard are one hash. Field: `projectId:customerId`. Value: a mark, which is twice the version, plus
 * 1 if the entry is an erasure. While the hash has claims, it also has a field without a name. The value of that
 * field is too long for Redis to store the hash in its packed form, in which each look-up scans the hash from its
 * start.
 *
 * The pending erasures are another hash with the same fields. Value: the mark of the newest erasure that is not
 * persisted.
 */

/** The byte of an erasure in the string that has one character per entry. */
const ERASES = '1'.charCodeAt(0);

const DROP_IF_EMPTY = `
local function dropIfEmpty(claims)
  if redis.call('HLEN', claims) == 1 and redis.call('HEXISTS', claims, '') == 1 then redis.call('DEL', claims) end
end`;

/*
 * The fields of a chunk's entries are one argument, a JSON array: with an argument each, ioredis and Redis spend more
 * time on them.
 */

/**
 * Defines `fields`, the fields of the entries, and `takeVersions`, which assigns the entries consecutive versions from
 * `base` on.
 */
const TAKE_VERSIONS = `
local fields = cjson.decode(ARGV[1])
local function takeVersions(base, entries)
  redis.call('SET', KEYS[1], string.format('%d', base + entries - 1))
  redis.call('INCRBY', KEYS[5], entries)
  local backlogs = {}
  for place = -base % ${SAMPLE}, entries - 1, ${SAMPLE} do
    local project = fields[place + 1]:match('^%d+')
    backlogs[#backlogs + 1] = redis.call('HINCRBY', KEYS[2], project, ${SAMPLE})
  end
  if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('HSET', KEYS[3], '', string.rep('-', 65)) end
  return backlogs
end`;

/** `define`, `leaveOut` and `write` handle the keyed parts. */
const toAdmit = ({ define = '', leaveOut = '', write = '' }) => `${define}${TAKE_VERSIONS}
local call, format = redis.call, string.format
local claims, erasures, recordBytes, known = KEYS[3], ARGV[2], {}, {}
local newestVersion = call('GET', KEYS[1])
if not newestVersion and ARGV[4] == '0' then return nil end
local time = call('TIME')
local base = math.max(time[1] * 1000000 + time[2], (tonumber(newestVersion) or 0) + 1, ARGV[3] + 1)
${leaveOut}
local entries = #fields
local backlogs = takeVersions(base, entries)
local replaced, newest = {}, {}
for first = 1, entries, ${SLICE} do
  local last = math.min(first + ${SLICE - 1}, entries)
  local marks = call('HMGET', claims, unpack(fields, first, last))
  local claimed = {}
  for i = first, last do
    local field, erases = fields[i], erasures:byte(i) == ${ERASES}
    local mark = format('%d', 2 * (base + i - 1) + (erases and 1 or 0))
    replaced[i] = newest[field] or marks[i - first + 1]
    newest[field] = mark
    claimed[#claimed + 1] = field
    claimed[#claimed + 1] = mark
    if erases then call('HSET', KEYS[4], field, mark) end
  end
  call('HSET', claims, unpack(claimed))
end
${write}
return { base, backlogs, replaced, recordBytes, known }`;

/**
 * KEYS: 1 the shard's version, 2 the backlogs of its projects, 3 its claims, 4 its pending erasures, 5 its number of
 * waiting entries.
 * ARGV: 1 the entries' fields; 2 a string with `1` for each erasure and `0` for each other entry, or empty if there is
 * no erasure; 3 a version that the new ones must be above; 4 `1` if ARGV[3] is at least every row's version, else `0`.
 *
 * Returns the first entry's version (the others follow one by one), the backlogs of the projects of the sampled
 * entries (see `countSampled`) and, per entry, the mark that it replaced, or nil. Returns nil if the shard has no
 * version and ARGV[4] is `0`.
 */
export const ADMIT = toAdmit({});

const RECORDS = defineRecords(6);

/**
 * ADMIT for chunks with keyed parts. KEYS: 6… the keys of the records. ARGV: 5… the ids of the parts; then per part one
 * text: its fingerprint, the index of its first entry (5 digits), and the state without claims.
 *
 * Returns also projects and the bytes of their records. Leaves out the parts that have a record already: if there are
 * any, it also returns the record of each part, or ''.
 */
export const ADMIT_KEYED = toAdmit({
  define: RECORDS,
  leaveOut: `
local parts = (#ARGV - 4) / 2
local firsts, sizes, leftOut = {}, {}, 0
for i = 1, parts do
  local part = ARGV[4 + parts + i]
  firsts[i], sizes[i] = tonumber(part:sub(9, 13)), tonumber(part:sub(15, -2))
end
known = findRecords(ARGV, 5, 4 + parts, base)
if next(known) then
  local isKnown, new, newErasures = {}, {}, {}
  for i = 1, parts do
    local first, size = firsts[i], sizes[i]
    firsts[i] = first - leftOut
    if known[i] then
      for place = first + 1, first + size do isKnown[place] = true end
      leftOut = leftOut + size
    else
      known[i] = ''
    end
  end
  for place, field in ipairs(fields) do
    if not isKnown[place] then
      new[#new + 1] = field
      newErasures[#newErasures + 1] = erasures:sub(place, place)
    end
  end
  fields, erasures = new, table.concat(newErasures)
  if #new == 0 then return { base, {}, {}, {}, known } end
end`,
  write: `
local function toFlags(first, size)
  local flags, hadClaim = {}, false
  for j = 1, size do
    local mark = replaced[first + j]
    flags[j] = mark and (mark % 2 == 0 and 'p' or 'e') or '-'
    hadClaim = hadClaim or mark
  end
  return hadClaim and table.concat(flags) or ''
end
for i = 1, parts do
  if not known[i] or known[i] == '' then
    local first, size = firsts[i], sizes[i]
    local version = base + first
    local value = format('%.8s%016d:%s:%s', ARGV[4 + parts + i], version, size, toFlags(first, size))
    addRecord(ARGV[4 + i], version, value, size, fields[first + 1])
  end
end
recordBytes = writeRecords(base)`,
});

/**
 * KEYS: as ADMIT_KEYED. ARGV: 1 and 2 as ADMIT; 3 a version that the claims must be above; then per part its id, its
 * record, index of its first entry, size, the version of its first entry's claim, and its new state without a claim.
 *
 * Returns the first entry's claim (the others follow one by one) and per entry the mark found, or nil, and `own`,
 * `none` or `other`. Returns nil if a record is not as given.
 */
export const ADMIT_AGAIN = `${RECORDS}${TAKE_VERSIONS}
local claims, erasures = KEYS[3], KEYS[4]
local base = math.max(readTime(), tonumber(call('GET', KEYS[1]) or 0) + 1, ARGV[3] + 1)
local ids = {}
for i = 4, #ARGV, 6 do ids[#ids + 1] = ARGV[i] end
local records = findRecords(ids, 1, #ids, base)
for i = 1, #ids do
  if records[i] ~= ARGV[6 * i - 1] then return nil end
end
takeVersions(base, #fields)
local marks, found = {}, {}
for i = 4, #ARGV, 6 do
  local id, record, first, size, own, state = unpack(ARGV, i, i + 5)
  local version, claimed = tonumber(record:sub(9, 24)), base + first
  local function isFrom(first, mark) return mark >= 2 * first and mark < 2 * (first + size) end
  local function wasOwn(mark) return isFrom(own, mark) or isFrom(version, mark) end
  local function isOwn(mark) return wasOwn(mark) or isFrom(claimed, mark) end
  for j = 1, size do
    local place = first + j
    local field, erases, claim = fields[place], ARGV[2]:byte(place) == ${ERASES}, base + place - 1
    local mark = tonumber(call('HGET', claims, field))
    if not mark then
      found[place] = 'none'
      if not erases then call('HSET', claims, field, format('%d', 2 * claim)) end
    else
      found[place] = isOwn(mark) and 'own' or 'other'
      if isOwn(mark) or mark < 2 * version then
        local erased = (erases or wasOwn(mark)) and mark % 2 or 0
        call('HSET', claims, field, format('%d', 2 * claim + erased))
      end
    end
    marks[place] = mark and format('%d', mark) or false
    if erases then
      local erasure = tonumber(call('HGET', erasures, field))
      if not erasure or erasure < 2 * (version + size) or isOwn(erasure) then
        call('HSET', erasures, field, format('%d', 2 * claim + 1))
      end
    end
  end
  call('HSET', recordsOf(periodOf(version)), id, record:sub(1, 24) .. state .. ':' .. format('%d', claimed))
end
return { base, marks, found }`;

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
 * KEYS: 1 the backlogs, 2 the number of waiting entries, 3 the claims, 4 the pending erasures. ARGV: 1 the entries'
 * fields; the number of projects, their ids and counts; then per run (entries with consecutive claims) its number of
 * entries and its newest version.
 * Keeps the claims of other entries, and pending erasures that are not the entry itself.
 */
export const SETTLE = `${ALLOW_OOM}${COUNT}${DROP_IF_EMPTY}
local call, claims = redis.call, KEYS[3]
local hasErasures = call('EXISTS', KEYS[4]) == 1
local fields, first = cjson.decode(ARGV[1]), 1
count(KEYS[1], KEYS[2], -1, #fields, ARGV[2], 3)
for i = 3 + 2 * ARGV[2], #ARGV, 2 do
  local entries, newest = tonumber(ARGV[i]), 2 * ARGV[i + 1] + 1
  local last = first + entries - 1
  for from = first, last, ${SLICE} do
    local persisted, marks = {}, call('HMGET', claims, unpack(fields, from, math.min(from + ${SLICE - 1}, last)))
    for j, mark in ipairs(marks) do
      local k = from + j - 1
      if mark and math.floor((newest - mark) / 2) == last - k then persisted[#persisted + 1] = fields[k] end
    end
    if #persisted > 0 then call('HDEL', claims, unpack(persisted)) end
    if hasErasures then
      for j, mark in ipairs(call('HMGET', KEYS[4], unpack(fields, from, math.min(from + ${SLICE - 1}, last)))) do
        local k = from + j - 1
        if mark and tonumber(mark) == newest - 2 * (last - k) then call('HDEL', KEYS[4], fields[k]) end
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
