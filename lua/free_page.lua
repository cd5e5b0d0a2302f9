#!lua flags=no-writes
-- Some of a counter's free seats, as they are written there. Changes nothing.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] cursor   0      where to go on; 0 at the beginning
-- ARGV[2] count    1000   about so many
-- Returns {cursor, member, member, …}: {"0", "2", "5"}; the cursor is 0 after the last. A member can come twice
-- Returns {"0"}: the key has a wrong type, or is missing
assert(#KEYS == 4, "free_page: the four keys of a coupon")
assert(#ARGV == 2, "free_page: cursor, count")

local cursor, count = ARGV[1], ARGV[2]

if redis.call("TYPE", KEYS[2]).ok ~= "set" then
  return { "0" }
end
local found = redis.call("SSCAN", KEYS[2], cursor, "COUNT", count)
local reply = found[2]
table.insert(reply, 1, found[1])
return reply
