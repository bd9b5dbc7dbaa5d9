/**
 * KEYS: the shard's version, its backlog, then one claim per entry. ARGV: the project, the claims' time to live in ms,
 * then one letter per entry. Answers with the first entry's version (the others follow it), the project's backlog and,
 * per entry, the claim that it replaced or nil.
 */
export const ADMIT = `
local entries = #KEYS - 2
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local base = math.max(clock, (tonumber(redis.call('GET', KEYS[1])) or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', base + entries - 1))
local answer = { base, redis.call('HINCRBY', KEYS[2], ARGV[1], entries) }
for i = 1, entries do
  local mark = string.format('%.0f', base + i - 1) .. string.sub(ARGV[3], i, i)
  answer[i + 2] = redis.call('SET', KEYS[i + 2], mark, 'GET', 'PX', ARGV[2])
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
 * KEYS: the shard's backlog, then one claim per entry. ARGV: the project, then the entries' versions, then what each had
 * replaced or ''. Newest first: an entry may have replaced the claim of another one of the same batch.
 */
export const RELEASE = `${ALLOW_OOM}${COUNT_DOWN}
local entries = #KEYS - 1
countDown(KEYS[1], ARGV[1], entries)
for i = entries, 1, -1 do
  local claim = KEYS[i + 1]
  local mark = redis.call('GET', claim)
  if mark and string.sub(mark, 1, -2) == ARGV[i + 1] then
    local replaced = ARGV[entries + i + 1]
    if replaced == '' then redis.call('DEL', claim) else redis.call('SET', claim, replaced, 'KEEPTTL') end
  end
end`;

/**
 * KEYS: the shard's backlog, then one claim per persisted entry. ARGV: the entries' versions, then projects, each with
 * the number of its entries. A claim of a newer entry stays. Read and removed in slices, which is cheaper than key by
 * key, and no larger than Lua's stack.
 */
export const SETTLE = `${ALLOW_OOM}${COUNT_DOWN}
for i = #KEYS, #ARGV, 2 do countDown(KEYS[1], ARGV[i], ARGV[i + 1]) end
local slice = 1000
for first = 2, #KEYS, slice do
  local last = math.min(first + slice - 1, #KEYS)
  local marks = redis.call('MGET', unpack(KEYS, first, last))
  local settled = {}
  for i = first, last do
    local mark = marks[i - first + 1]
    if mark and tonumber(string.sub(mark, 1, -2)) <= tonumber(ARGV[i - 1]) then settled[#settled + 1] = KEYS[i] end
  end
  if #settled > 0 then redis.call('DEL', unpack(settled)) end
end`;
