#!lua
-- Which orders hold these seats by claims that are still pending, and for how long.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_max_ms   7000      a pending order that is older counts as absent
-- ARGV[2] seats        [2,3,9]   JSON
-- Returns {order, seat, age_ms, order, seat, age_ms, …}: {"o7", 3, 120} when only seat 3 is pending
assert(#KEYS == 4, "holders: the four keys of a coupon")
assert(#ARGV == 2, "holders: age_max_ms, seats")
local counter = require("counter")

local age_max_ms, seats = tonumber(ARGV[1]), cjson.decode(ARGV[2])

counter.read()
local is_wanted = {}
for _, seat in ipairs(seats) do
  is_wanted[seat] = true
end

local now_ms, flat, reply = counter.now_ms(), redis.call("HGETALL", KEYS[3]), {}
for i = 1, #flat, 2 do
  local seat, _, at = counter.held(flat[i + 1], now_ms, age_max_ms)
  if is_wanted[seat or 0] then
    reply[#reply + 1] = flat[i]
    reply[#reply + 1] = seat
    reply[#reply + 1] = now_ms - at
  end
end
return reply
