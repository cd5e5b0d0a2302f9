#!lua
-- Takes in seats that the ledger has shown to be free, less those that somebody holds by now.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_max_ms   7000      a pending order that is older counts as absent, and leaves
-- ARGV[2] idle_s       86400     the keys leave when nobody has asked for so long
-- ARGV[3] coupon_id    77        whose seats these are
-- ARGV[4] version      3         by which version they were looked for
-- ARGV[5] complete     1         1: all free seats up to `next` are among them; 0: there may be more; -1: nothing was
--                                searched, these were missed by an earlier search, which stands
-- ARGV[6] seats        [2,3,9]   JSON: a seat above `next` is left out, it comes by itself
-- Returns how many seats became free: with `next` 4 and seat 2 pending 1
-- Returns -1: the counter is missing, or another coupon's or version's
assert(#KEYS == 4, "refill: the four keys of a coupon")
assert(#ARGV == 6, "refill: age_max_ms, idle_s, coupon_id, version, complete, seats")
local counter = require("counter")

local age_max_ms, idle_s = tonumber(ARGV[1]), ARGV[2]
local coupon_id, version = tonumber(ARGV[3]), tonumber(ARGV[4])
local complete, seats = tonumber(ARGV[5]), cjson.decode(ARGV[6])

local c = counter.read()
if not c or c.coupon_id ~= coupon_id or c.version ~= version then
  return -1
end

local now_ms = counter.now_ms()
local is_held, free = {}, {}
for _, seat in pairs(counter.sweep_pending(now_ms, age_max_ms)) do
  is_held[seat] = true
end
for _, seat in ipairs(seats) do
  if seat >= 1 and seat <= c.next and not is_held[seat] then
    free[#free + 1] = seat
  end
end

local freed = counter.put_all("SADD", KEYS[2], free)
if complete == 1 then
  redis.call("HSET", KEYS[1], "searched", now_ms, "unsearched", 0)
elseif complete == 0 then
  redis.call("HSET", KEYS[1], "searched", 0)
end
counter.keep(idle_s)
return freed
