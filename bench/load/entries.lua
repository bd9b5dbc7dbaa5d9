-- wrk script that POSTs entries with all five fields. Arguments: a file of API keys, which requests use in turn; the
-- prefix of the customer ids; the number of customers (0: a new customer per entry); the mean think time of a
-- connection in ms (0: none); the number of entries in the array of a request (0: one entry, no array); `true` if each
-- request has an idempotency key of its own.
local threads = 0

function setup(thread)
  thread:set('number', threads)
  threads = threads + 1
end

function init(args)
  local keys, ids, customers, think_ms, batch = args[1], args[2], tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  local is_keyed = args[6] == 'true'
  local requests = number * 1e9
  math.randomseed(os.time() + number)

  local function next_body()
    requests = requests + 1
    local customer = customers > 0 and math.random(customers) or requests
    return to_body(ids, string.format('%010d', customer))
  end

  -- All ids have the same length, so all requests of a key do too, and building one only joins strings.
  local length = #to_body(ids, string.format('%010d', 0))
  local heads, turn = {}, 0
  for key in io.lines(keys) do
    local head = to_head(key, batch > 0 and batch * (length + 1) + 1 or length)
    heads[#heads + 1] = head .. (is_keyed and 'idempotency-key: ' .. ids or '\r\n')
  end
  local function next_head()
    turn = turn % #heads + 1
    -- As long as a UUID with the prefix; it counts the entries, which are new ones.
    return is_keyed and heads[turn] .. string.format('%028d\r\n\r\n', requests) or heads[turn]
  end

  local parts = {}
  function request()
    parts[1] = next_head()
    parts[2] = next_body()
    return table.concat(parts)
  end

  if batch > 0 then
    local bodies = {}
    function request()
      for i = 1, batch do bodies[i] = next_body() end
      return next_head() .. '[' .. table.concat(bodies, ',') .. ']'
    end
  end

  if think_ms > 0 then
    -- Uniform around the mean, so that connections do not synchronize.
    function delay()
      return math.floor(math.random() * 2 * think_ms + 0.5)
    end
  end
end

function to_head(key, length)
  return 'POST ' .. wrk.path .. ' HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: ' .. key
    .. '\r\ncontent-type: application/json\r\ncontent-length: ' .. length .. '\r\n'
end

function to_body(ids, n)
  return '{"customerId":"' .. ids .. n .. '","customerEmail":"customer.' .. n .. '@example.com","customerPhone":"+49 30 ' .. n
    .. '","customerFirstName":"First","customerLastName":"Last ' .. n .. '","customerIP":"203.0.113.7"}'
end

-- wrk counts statuses above 399 as errors; no contender redirects.
function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"seconds":%.6f,"refused":%d,"socketErrors":%d,"p50Ms":%.3f,"p99Ms":%.3f}',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  ))
end
