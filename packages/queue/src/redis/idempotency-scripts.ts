/*
 * A key's value is the fingerprint of its request, followed by `:` and the token of the attempt that is under way, or by
 * `=` and what is kept. Redis removes it when the lease is over, or the answer's time.
 */

/** KEYS: of the requests. ARGV: the lease in ms, then the value of each. Answers per request with the value found, or ''. */
export const BEGIN = `
local answer = {}
for i, key in ipairs(KEYS) do
  local found = redis.call('GET', key)
  if not found then redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1]) end
  answer[i] = found or ''
end
return answer`;

/**
 * KEYS: of the requests. ARGV: for how long answers are kept in ms, then per request the value that it began with and
 * the new one, '' where there is no answer. Answers per request with the value that somebody else has set since, or ''.
 * It works where memory is full, too: the entry is queued by now.
 */
export const END = `#!lua flags=allow-oom
local answer = {}
for i, key in ipairs(KEYS) do
  local begun, ended = ARGV[2 * i], ARGV[2 * i + 1]
  local found = redis.call('GET', key)
  answer[i] = ''
  if ended == '' then
    if found == begun then redis.call('DEL', key) end
  elseif not found or found == begun then
    redis.call('SET', key, ended, 'PX', ARGV[1])
  else
    answer[i] = found
  end
end
return answer`;
