#!lua
-- What a coupon's counter could still hand out, and some of those seats, to be held against the ledger. Nothing is handed
-- out; what cannot be right is dropped, as by every script.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- Returns {}: the counter is missing
-- Returns {coupon_id, version, max_redemptions, remaining, search, seat, seat}: {77, 3, 5, 2, 0, 5, 2} with `next` 4 and 2 free
--   search: 0 never searched, 1 search due, 2 searched within the last second
--   seat: the limit, which is handed out last, unless `next` is there; and one of `free`, if there is any
assert(#KEYS == 4, "remaining: the four keys of a coupon")
assert(#ARGV == 0, "remaining: no arguments")
local counter = require("counter")

local c = counter.read()
if not c then
  return {}
end

local seats, free = {}, redis.call("SCARD", KEYS[2])
if c.next < c.max_redemptions then
  seats[1] = c.max_redemptions
end
if free > 0 then
  local seat = counter.whole(redis.call("SRANDMEMBER", KEYS[2]), 1, c.next)
  if seat then
    seats[#seats + 1] = seat
  else
    -- It proves that the set was written by somebody else: a claim would drop it, too.
    redis.call("UNLINK", KEYS[2])
    redis.call("HSET", KEYS[1], "searched", 0)
    free, c.searched = 0, 0
  end
end

-- A set that was written by somebody else may be larger than all seats up to `next`.
local remaining = c.max_redemptions - c.next + math.min(free, c.next)
return { c.coupon_id, c.version, c.max_redemptions, remaining, counter.search(c, counter.now_ms()), unpack(seats) }
