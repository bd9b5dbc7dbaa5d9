/**
 * KEYS: the shard's version, then one claim per entry. ARGV: the claims' time to live in ms, then one letter per entry.
 * Answers with the first entry's version (the others follow it) and, per entry, the claim that it replaced or nil.
 */
export const ADMIT = `
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local base = math.max(clock, (tonumber(redis.call('GET', KEYS[1])) or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', base + #KEYS - 2))
local answer = { base }
for i = 2, #KEYS do
  local mark = string.format('%.0f', base + i - 2) .. string.sub(ARGV[2], i - 1, i - 1)
  answer[i] = redis.call('SET', KEYS[i], mark, 'GET', 'PX', ARGV[1])
end
return answer`;

/**
 * KEYS: one claim per entry. ARGV: their versions, then what each had replaced or ''.
 * Newest first: an entry may have replaced the claim of another one of the same batch.
 */
export const RELEASE = `
for i = #KEYS, 1, -1 do
  local mark = redis.call('GET', KEYS[i])
  if mark and string.sub(mark, 1, -2) == ARGV[i] then
    local replaced = ARGV[#KEYS + i]
    if replaced == '' then redis.call('DEL', KEYS[i]) else redis.call('SET', KEYS[i], replaced, 'KEEPTTL') end
  end
end`;

/**
 * KEYS: one claim per persisted entry. ARGV: their versions. A claim of a newer entry stays. Read and removed in slices,
 * which is cheaper than key by key, and no larger than Lua's stack.
 */
export const SETTLE = `
local slice = 1000
for first = 1, #KEYS, slice do
  local last = math.min(first + slice - 1, #KEYS)
  local marks = redis.call('MGET', unpack(KEYS, first, last))
  local settled = {}
  for i = first, last do
    local mark = marks[i - first + 1]
    if mark and tonumber(string.sub(mark, 1, -2)) <= tonumber(ARGV[i]) then settled[#settled + 1] = KEYS[i] end
  end
  if #settled > 0 then redis.call('DEL', unpack(settled)) end
end`;
