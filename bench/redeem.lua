-- wrk: one redemption after the other. Each is of a customer and an order of its own, unless `orders` says otherwise.
-- Arguments after `--`: the API key, the coupon's code, a word that no other run has used, and `name=number` for
--   coupons  each request is for one of CODE-1, CODE-2 …, by chance
--   zipf     1: the first coupons are the busiest, by Zipf's law with exponent 1
--   orders   so many orders, again and again
--   shop     1: checkouts. Of 100 that reserve a use, 80 confirm it, 15 cancel it and 5 say nothing more
-- Answers are counted by status and by the `code` of their problem.

-- A card is charged some 85 times of a hundred; whoever sees it declined cancels, as do those who change their minds, and a few
-- close the window.
local CONFIRMED, CANCELLED = 80, 95
local HOLD_S = 600
local threads = {}

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

function init(args)
  key, code, run = args[1], args[2], args[3]
  local options = { coupons = 1, zipf = 0, orders = 0, shop = 0 }
  for at = 4, #args do
    local name, value = args[at]:match("^(%l+)=(%d+)$")
    assert(name and options[name], "what is " .. args[at] .. "?")
    options[name] = tonumber(value)
  end
  coupons, zipf, orders = options.coupons, options.zipf == 1, options.orders
  more = options.shop == 1 and ',"hold_s":' .. HOLD_S or ""
  decided, waiting = 0, {}
  math.randomseed(os.time() + id)
  asked, answered = 0, 0
  count, good, counts = 0, 0, {}
  headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. key }
  bare = { ["Authorization"] = "Bearer " .. key }
end

function coupon()
  if coupons == 1 then
    return code
  end
  -- The number of coupons to the power of a random number: the rank's logarithm is spread evenly, which is Zipf's law.
  local rank = zipf and math.floor(coupons ^ math.random()) or math.random(coupons)
  return code .. "-" .. rank
end

function request()
  asked = asked + 1
  -- What is confirmed or cancelled comes before what is reserved, so the shares are met whatever the number of users.
  local path = table.remove(waiting)
  if path then
    return wrk.format("POST", path, bare)
  end
  count = count + 1
  local who = run .. "-" .. id .. "-" .. (orders > 0 and (count - 1) % orders + 1 or count)
  local body = '{"code":"' .. coupon() .. '","customer_id":"c-' .. who .. '","order_id":"o-' .. who .. '"' .. more .. '}'
  return wrk.format("POST", "/v1/redemptions", headers, body)
end

-- What becomes of a hold; spread evenly, since 37 has no factor in common with 100.
function decide(body)
  decided = decided + 1
  local turn = decided * 37 % 100
  if turn < CANCELLED then
    local name = body:match('"id": ?"([%x-]+)"')
    table.insert(waiting, "/v1/redemptions/" .. name .. (turn < CONFIRMED and "/confirm" or "/cancel"))
  end
end

function response(status, _, body)
  answered = answered + 1
  if status == 201 then
    good = good + 1
    if more ~= "" then
      decide(body)
    end
    return
  end
  local what = status .. " " .. (status >= 400 and body:match('"code": ?"([%l_]+)"') or "")
  counts[what] = (counts[what] or 0) + 1
end

function done(summary, latency, _)
  local total, parts = {}, {}
  -- wrk asks for one request to look at before it begins, and what was on a broken connection is told as such.
  local under_way = -1 - summary.errors.read
  for _, thread in ipairs(threads) do
    under_way = under_way + thread:get("asked") - thread:get("answered")
    total["201 "] = (total["201 "] or 0) + thread:get("good")
    for what, times in pairs(thread:get("counts")) do
      total[what] = (total[what] or 0) + times
    end
  end
  for what, times in pairs(total) do
    table.insert(parts, string.format('"%s": %d', what, times))
  end
  io.write(string.format('\nRESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p95_us": %d, "p99_us": %d, "p999_us": %d, '
    .. '"max_us": %d, "not_2xx": %d, "socket_errors": %d, "timeouts": %d, "under_way": %d, "answers": {%s}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    latency:percentile(99.9), latency.max, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write, summary.errors.timeout,
    math.max(under_way, 0), table.concat(parts, ", ")))
end
