#!lua flags=allow-oom
-- Gives claims of one coupon back. A seat becomes free only if no other order holds it. It runs when Redis is out of
-- memory too: a full Redis is no reason to lose seats, and what it writes is small.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_max_ms       7000             a pending order that is older counts as absent
-- ARGV[2] idle_s           86400            the keys leave when nobody has asked for so long
-- ARGV[3] orders           ["o7","o8"]      JSON: one per claim; it leaves `pending` if it holds that seat there, or any at 0
-- ARGV[4] customers        ["ann","bob"]    JSON: their customers
-- ARGV[5] seats            [5,0]            JSON: their seats, 0 where there is none
-- ARGV[6] customer_lives   [-1,2]           JSON: their live redemptions by the ledger; -1: one less than was thought
-- Returns how many seats became free; 0 also where the counter is missing: it will be loaded from the ledger
-- Example: with `next` 5, this returns 1: seat 5 is free.
assert(#KEYS == 4, "release: the four keys of a coupon")
assert(#ARGV == 6, "release: age_max_ms, idle_s, orders, customers, seats, customer_lives")
local counter = require("counter")

local age_max_ms, idle_s = tonumber(ARGV[1]), ARGV[2]
local orders, customers = cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local seats, customer_lives = cjson.decode(ARGV[5]), cjson.decode(ARGV[6])

local c = counter.read()
if not c then
  return 0
end

local now_ms = counter.now_ms()
local gone = {}
for i, value in ipairs(counter.get_all(KEYS[3], orders)) do
  local seat = counter.held(value, now_ms, age_max_ms)
  -- A seat that the ledger has handed on comes as 0. It would be kept from everybody as long as this order is pending with it.
  if seat and (seat == seats[i] or seats[i] == 0) then
    gone[#gone + 1] = orders[i]
  end
end
counter.put_all("HDEL", KEYS[3], gone)

-- Seats that become free, as text, less those that others hold. Only the beginning of each value is looked at, since
-- there may be thousands.
local is_free, free = {}, {}
for _, seat in ipairs(seats) do
  if seat >= 1 and seat <= c.next then
    is_free[tostring(seat)] = true
  end
end
for _, value in ipairs(redis.call("HVALS", KEYS[3])) do
  local seat = string.match(value, "^%d+")
  if seat and is_free[seat] and counter.held(value, now_ms, age_max_ms) then
    is_free[seat] = nil
  end
end
for seat in pairs(is_free) do
  free[#free + 1] = seat
end

local counts, counts_put, counts_gone = {}, {}, {}
if c.max_per_customer > 0 then
  for i, value in ipairs(counter.get_all(KEYS[4], customers)) do
    local customer, live = customers[i], customer_lives[i]
    local known = counts[customer] or counter.whole(value, 0, c.max_per_customer) or 0
    counts[customer] = live >= 0 and math.min(live, c.max_per_customer) or math.max(known - 1, 0)
  end
  for customer, count in pairs(counts) do
    if count > 0 then
      counts_put[#counts_put + 1] = customer
      counts_put[#counts_put + 1] = count
    else
      counts_gone[#counts_gone + 1] = customer
    end
  end
end

counter.put_all("HDEL", KEYS[4], counts_gone)
counter.put_all("HSET", KEYS[4], counts_put)
local freed = counter.put_all("SADD", KEYS[2], free)
counter.keep(idle_s)
return freed
