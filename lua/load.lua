#!lua
-- Makes a coupon's counter from the ledger, where it is missing or differs: nothing is free, and no search has been
-- made. Orders that are pending and customers' counts stay, unless they were another coupon's. For many coupons: reseed.
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
-- Returns 1: loaded, `next` is 3, or a higher seat that is pending
-- Returns 0: left alone, since it says the same, or a newer version which a slower reader of the ledger must not undo
assert(#KEYS == 4, "load: the four keys of a coupon")
assert(#ARGV == 10, "load: age_max_ms, idle_s, seat_max and the seven fields of the ledger's coupon")
local counter = require("counter")
local loading = require("loading")

local age_max_ms, idle_s = tonumber(ARGV[1]), ARGV[2]
local fresh = { seat_max = tonumber(ARGV[3]), coupon_id = tonumber(ARGV[4]), version = tonumber(ARGV[5]), status = ARGV[6],
  max_redemptions = tonumber(ARGV[7]), max_per_customer = tonumber(ARGV[8]),
  starts_at = tonumber(ARGV[9]), ends_at = tonumber(ARGV[10]) }

return loading.load(counter, KEYS, fresh, { now_ms = counter.now_ms(), age_max_ms = age_max_ms, idle_s = idle_s })
