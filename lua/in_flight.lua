#!lua flags=no-writes
-- Orders that have been pending for a while: claimed, and perhaps not recorded yet. Changes nothing.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_min_ms   500    a pending order that is younger is left out
-- ARGV[2] age_max_ms   7000   one that is older counts as absent
-- ARGV[3] orders_max   1000   no more than so many
-- Returns {order, age_ms, order, age_ms, …}: {"o7", 620}
assert(#KEYS == 4, "in_flight: the four keys of a coupon")
assert(#ARGV == 3, "in_flight: age_min_ms, age_max_ms, orders_max")
local counter = require("counter")

local age_min_ms, age_max_ms, orders_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local reply = {}
if not counter.peek() then
  return reply
end
local now_ms, flat = counter.now_ms(), redis.call("HGETALL", KEYS[3])
for i = 1, #flat, 2 do
  local _, _, at = counter.held(flat[i + 1], now_ms, age_max_ms)
  if at and now_ms - at >= age_min_ms and #reply < 2 * orders_max then
    reply[#reply + 1] = flat[i]
    reply[#reply + 1] = now_ms - at
  end
end
return reply
