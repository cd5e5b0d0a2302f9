#!lua
-- What to know of a counter before the ledger is asked for free seats: how far to look, and which seats are pending.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_max_ms   7000   a pending order that is older counts as absent, and leaves
-- Returns {}: the counter is missing
-- Returns {coupon_id, version, max_redemptions, next, seat, seat, …}: {77, 3, 5, 4, 2} when only seat 2 is pending
assert(#KEYS == 4, "look: the four keys of a coupon")
assert(#ARGV == 1, "look: age_max_ms")
local counter = require("counter")

local age_max_ms = tonumber(ARGV[1])

local c = counter.read()
if not c then
  return {}
end

local reply = { c.coupon_id, c.version, c.max_redemptions, c.next }
for _, seat in pairs(counter.sweep_pending(counter.now_ms(), age_max_ms)) do
  if seat >= 1 and seat <= c.max_redemptions then
    reply[#reply + 1] = seat
  end
end
return reply
