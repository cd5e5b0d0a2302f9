#!lua
-- After collisions: what the counter believes free is forgotten, and `next` is at least the highest seat in a row. It
-- only takes away, so it cannot cause the next collision; the search that follows gives back what is free.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] idle_s     86400   the keys leave when nobody has asked for so long
-- ARGV[2] seat_max   18      the highest seat in any row of the coupon
-- Returns `next` as it is now: 18, where it was 4
-- Returns -1: the counter is missing
assert(#KEYS == 4, "shrink: the four keys of a coupon")
assert(#ARGV == 2, "shrink: idle_s, seat_max")
local counter = require("counter")

local idle_s, seat_max = ARGV[1], tonumber(ARGV[2])

local c = counter.read()
if not c then
  return -1
end

local next_seat = math.max(c.next, math.min(seat_max, c.max_redemptions))
redis.call("UNLINK", KEYS[2])
redis.call("HSET", KEYS[1], "next", next_seat, "searched", 0, "unsearched", next_seat)
counter.keep(idle_s)
return next_seat
