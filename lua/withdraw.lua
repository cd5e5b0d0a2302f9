#!lua
-- Seats that the ledger has in rows, and members that are no seats, are free no longer. It only takes away: should one of
-- them have become free meanwhile, the next search gives it back, so one is called for.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] idle_s      86400           the keys leave when nobody has asked for so long
-- ARGV[2] coupon_id   77              whose seats these are
-- ARGV[3] seats       [2,3,9,"x"]     JSON: as they are written in `free`
-- Returns how many left
-- Returns -1: the counter is missing, or another coupon's
assert(#KEYS == 4, "withdraw: the four keys of a coupon")
assert(#ARGV == 3, "withdraw: idle_s, coupon_id, seats")
local counter = require("counter")

local idle_s, coupon_id, seats = ARGV[1], tonumber(ARGV[2]), cjson.decode(ARGV[3])

local c = counter.read()
if not c or c.coupon_id ~= coupon_id then
  return -1
end

local gone = counter.put_all("SREM", KEYS[2], seats)
if gone > 0 then
  redis.call("HSET", KEYS[1], "searched", 0)
end
counter.keep(idle_s)
return gone
