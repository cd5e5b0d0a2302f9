#!lua flags=no-writes
-- What a counter says of some customers, as it is written there. Changes nothing.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] customers   ["ann","bob"]   JSON
-- Returns {count, count, …}: {"1", false} when bob is not known; all of them false where the key has a wrong type
assert(#KEYS == 4, "customer_counts: the four keys of a coupon")
assert(#ARGV == 1, "customer_counts: customers")
local counter = require("counter")

local customers = cjson.decode(ARGV[1])

if redis.call("TYPE", KEYS[4]).ok == "hash" then
  return counter.get_all(KEYS[4], customers)
end
local reply = {}
for i = 1, #customers do
  reply[i] = false
end
return reply
