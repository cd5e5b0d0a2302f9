#!lua
-- Sets customers' counts to what the ledger says, each only where the counter still says what it said before the ledger was
-- asked. One that a claim or a release has changed since stays.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] idle_s      86400           the keys leave when nobody has asked for so long
-- ARGV[2] coupon_id   77              whose customers these are
-- ARGV[3] customers   ["ann","bob"]   JSON
-- ARGV[4] seen        ["2","x"]       JSON: as it was written there
-- ARGV[5] live        [1,0]           JSON: their live redemptions by the ledger; 0: the customer leaves
-- Returns how many were set
-- Returns -1: the counter is missing, or another coupon's
assert(#KEYS == 4, "recount: the four keys of a coupon")
assert(#ARGV == 5, "recount: idle_s, coupon_id, customers, seen, live")
local counter = require("counter")

local idle_s, coupon_id = ARGV[1], tonumber(ARGV[2])
local customers, seen, live = cjson.decode(ARGV[3]), cjson.decode(ARGV[4]), cjson.decode(ARGV[5])

local c = counter.read()
if not c or c.coupon_id ~= coupon_id then
  return -1
end

local put, gone = {}, {}
for i, value in ipairs(counter.get_all(KEYS[4], customers)) do
  if value == seen[i] and live[i] > 0 then
    put[#put + 1] = customers[i]
    put[#put + 1] = live[i]
  elseif value == seen[i] then
    gone[#gone + 1] = customers[i]
  end
end
counter.put_all("HDEL", KEYS[4], gone)
counter.put_all("HSET", KEYS[4], put)
counter.keep(idle_s)
return #put / 2 + #gone
