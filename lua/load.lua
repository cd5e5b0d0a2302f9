#!lua
-- Makes a coupon's counter from the ledger, where it is missing or differs: nothing is free, and no search has been
-- made. Orders that are pending and customers' counts stay, unless they were another coupon's.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_max_ms        7000            a newer version that came from the ledger less than this ago stays; -1: none
-- ARGV[2] idle_s            86400           the keys leave when nobody has asked for so long
-- ARGV[3] seat_max          3               the highest seat in any row of the coupon
-- ARGV[4] coupon_id         77
-- ARGV[5] version           3
-- ARGV[6] status            active
-- ARGV[7] max_redemptions   5               0: unlimited
-- ARGV[8] max_per_customer  1               0: unlimited
-- ARGV[9] starts_at         0               ms since 1970; 0: open
-- ARGV[10] ends_at          1767225600000   ms since 1970; 0: open
-- Returns 1: loaded, `next` is 3
-- Returns 0: left alone, since it says the same, or a newer version which a slower reader of the ledger must not undo
assert(#KEYS == 4, "load: the four keys of a coupon")
assert(#ARGV == 10, "load: age_max_ms, idle_s, seat_max and the seven fields of the ledger's coupon")
local counter = require("counter")

local age_max_ms, idle_s, seat_max = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local fresh = { coupon_id = tonumber(ARGV[4]), version = tonumber(ARGV[5]), status = ARGV[6],
  max_redemptions = tonumber(ARGV[7]), max_per_customer = tonumber(ARGV[8]),
  starts_at = tonumber(ARGV[9]), ends_at = tonumber(ARGV[10]) }

local c = counter.read()
local now_ms = counter.now_ms()

if c and c.coupon_id == fresh.coupon_id then
  -- A reader is late by its deadline at most. Beyond that a newer version is not newer: it was written by hand, or the
  -- ledger was restored.
  local is_newer = c.version > fresh.version and math.abs(now_ms - c.loaded) <= age_max_ms
  local is_same = true
  for field, value in pairs(fresh) do
    is_same = is_same and c[field] == value
  end
  if is_newer or is_same then
    return 0
  end
elseif c then
  redis.call("UNLINK", KEYS[3], KEYS[4])
end

redis.call("UNLINK", KEYS[2])
redis.call("HSET", KEYS[1], "coupon_id", ARGV[4], "version", ARGV[5], "status", ARGV[6], "max_redemptions", ARGV[7],
  "max_per_customer", ARGV[8], "starts_at", ARGV[9], "ends_at", ARGV[10], "loaded", now_ms,
  "next", math.min(seat_max, fresh.max_redemptions), "searched", 0)
counter.keep(idle_s)
return 1
