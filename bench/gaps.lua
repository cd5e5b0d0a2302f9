-- wrk: as redeem.lua, and besides the times without a success, each with the moment of its end, and how many successes each
-- 50 ms had. For one thread (-t1).
-- Arguments after `--`: the API key, the coupon's code, a word that no other run has used, the shortest gap to tell in ms.
local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds; long nanoseconds; } moment; int clock_gettime(int, moment *);")

local REALTIME = 0
local STEP_MS = 50
local thread

function setup(one)
  thread = one
end

function init(args)
  key, code, run, shortest_ms = args[1], args[2], args[3], tonumber(args[4])
  count, success_at = 0, nil
  gaps, statuses, steps = "", {}, {}
  not_200 = ""
  now = ffi.new("moment")
  headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. key }
end

-- A success now, or the end: the time since the last success, where it is worth telling, is one more gap.
function close_gap()
  ffi.C.clock_gettime(REALTIME, now)
  local at = tonumber(now.seconds) * 1000 + tonumber(now.nanoseconds) / 1e6
  if success_at and at - success_at >= shortest_ms then
    gaps = gaps .. (gaps == "" and "" or ",") .. string.format("[%.1f,%.1f]", at, at - success_at)
  end
  success_at = at
end

function request()
  count = count + 1
  local who = run .. "-" .. count
  local body = '{"code":"' .. code .. '","customer_id":"c-' .. who .. '","order_id":"o-' .. who .. '"}'
  return wrk.format("POST", "/v1/redemptions", headers, body)
end

function response(status)
  if status ~= 201 then
    statuses[status] = (statuses[status] or 0) + 1
    not_200 = ""
    for found, times in pairs(statuses) do
      not_200 = not_200 .. (not_200 == "" and "" or ",") .. '"' .. found .. '":' .. times
    end
    return
  end
  close_gap()
  local at = success_at
  local step = math.floor(at / STEP_MS)
  steps[step] = (steps[step] or 0) + 1
end

function done(summary, latency, _)
  -- This runs in a state of its own, without the thread's variables. What is still without a success has its gap too.
  now, success_at, shortest_ms, gaps = ffi.new("moment"), thread:get("success_at"), thread:get("shortest_ms"), thread:get("gaps")
  close_gap()
  local successes = {}
  for step, times in pairs(thread:get("steps")) do
    table.insert(successes, string.format("[%d,%d]", step * STEP_MS, times))
  end
  io.write(string.format('\nRESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, "gaps": [%s], "not_201": {%s}, '
    .. '"successes": [%s]}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    gaps, thread:get("not_200"), table.concat(successes, ",")))
end
