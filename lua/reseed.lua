#!lua
-- Makes the counters of many coupons from the ledger, each as load does it. The coupons' keys lie on different nodes of a
-- cluster: there, load is called for each.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- and so on, four keys for each coupon
-- ARGV[1] age_max_ms   7000    a newer version that came from the ledger less than this ago stays
-- ARGV[2] idle_s       86400   the keys leave when nobody has asked for so long
-- ARGV[3] force        0       1: a counter that says the same is made anew, too
-- ARGV[4] coupons      [[3,77,3,"active",5,1,0,1767225600000]]   JSON: for each coupon the highest seat in any of its
--   rows, and the ledger's coupon_id, version, status, max_redemptions, max_per_customer, starts_at, ends_at, as load has them
-- Returns how many counters were made: 1
assert(#KEYS % 4 == 0, "reseed: the four keys of each coupon")
assert(#ARGV == 4, "reseed: age_max_ms, idle_s, force, coupons")
local counter = require("counter")
local loading = require("loading")

local coupons = cjson.decode(ARGV[4])
local how = { now_ms = counter.now_ms(), age_max_ms = tonumber(ARGV[1]), idle_s = ARGV[2], force = ARGV[3] == "1" }

local made = 0
for i, coupon in ipairs(coupons) do
  local keys = { KEYS[4 * i - 3], KEYS[4 * i - 2], KEYS[4 * i - 1], KEYS[4 * i] }
  local fresh = { seat_max = coupon[1], coupon_id = coupon[2], version = coupon[3], status = coupon[4],
    max_redemptions = coupon[5], max_per_customer = coupon[6], starts_at = coupon[7], ends_at = coupon[8] }
  made = made + loading.load(counter, keys, fresh, how)
end
return made
