import { KEPT_OVERHEAD } from '../idempotency.js';

/*
 * A key's value is the fingerprint of its request, followed by `:` and the token of the attempt that is under way, or by
 * `=` and what is kept. Redis removes it when the lease is over, or the answer's time.
 *
 * What the answers of a project take in a shard is counted in a hash: bytes by the hour, since 1970, in which they end.
 */

/** What begin answers where there is no room for a new key. */
export const NO_ROOM = '!';

/**
 * KEYS: the project's bytes, then those of the requests. ARGV: the lease in ms, the bytes that the project may have, then the
 * value of each request. Answers per request with the value found, or '', or NO_ROOM.
 */
export const BEGIN = `
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
 * KEYS: as those of BEGIN. ARGV: for how long answers are kept in ms, then per request the value that it began with and
 * the new one, '' where there is no answer. Answers per request with the value that somebody else has set since, or ''.
 * It works where memory is full, too: the entry is queued by now.
 */
export const END = `#!lua flags=allow-oom
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
    bytes = bytes + ${KEPT_OVERHEAD} + #ended
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
