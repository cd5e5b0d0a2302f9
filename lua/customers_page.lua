#!lua flags=no-writes
-- Some of a counter's customers with their counts, as they are written there. Changes nothing.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] cursor   0      where to go on; 0 at the beginning
-- ARGV[2] count    1000   about so many
-- Returns {cursor, customer, count, customer, count, …}: {"0", "ann", "1"}; the cursor is 0 after the last. One can come twice
-- Returns {"0"}: the key has a wrong type, or is missing
assert(#KEYS == 4, "customers_page: the four keys of a coupon")
assert(#ARGV == 2, "customers_page: cursor, count")

local cursor, count = ARGV[1], ARGV[2]

if redis.call("TYPE", KEYS[4]).ok ~= "hash" then
  return { "0" }
end
local found = redis.call("HSCAN", KEYS[4], cursor, "COUNT", count)
local reply = found[2]
table.insert(reply, 1, found[1])
return reply
