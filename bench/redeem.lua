-- wrk: one redemption after the other on one coupon, each with a customer and an order of its own.
-- Arguments after `--`: the API key, the coupon's code, a word that no other run has used.
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  key, code, run = args[1], args[2], args[3]
  count = 0
  headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. key }
end

function request()
  count = count + 1
  local who = run .. "-" .. id .. "-" .. count
  local body = '{"code":"' .. code .. '","customer_id":"c-' .. who .. '","order_id":"o-' .. who .. '"}'
  return wrk.format("POST", "/v1/redemptions", headers, body)
end

function done(summary, latency, _)
  io.write(string.format('\nRESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "not_2xx": %d, "socket_errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
