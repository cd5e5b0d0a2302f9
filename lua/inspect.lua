#!lua flags=no-writes
-- What a counter says, whether it can be right or not, to be held against the ledger. Changes nothing.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- Returns {}: the counter is missing
-- Returns {is_right, types, values, free, customers, pending, unsearched}: {1, {"hash", "set", "none", "hash"}, {"77", "3", …},
--   2, 10, 0, 4}
--   is_right: 1 a script could have written it, 0 it is dropped by whoever reads it to change it
--   types: of the four keys, in their order; values: the ten fields as text, in the order of modules/counter.lua
--   free, customers, pending: how many entries, 0 also where the key has a wrong type
--   unsearched: up to here free seats are not known; 0 also where what is written there cannot be right
assert(#KEYS == 4, "inspect: the four keys of a coupon")
assert(#ARGV == 0, "inspect: no arguments")
local counter = require("counter")

local types, fits = counter.types()
if types[1] == "none" then
  return {}
end

local values = types[1] == "hash" and counter.values() or {}
local is_right = fits[1] and fits[2] and fits[3] and fits[4] and counter.parse(values)
local free = types[2] == "set" and redis.call("SCARD", KEYS[2]) or 0
local customers = types[4] == "hash" and redis.call("HLEN", KEYS[4]) or 0
local pending = types[3] == "hash" and redis.call("HLEN", KEYS[3]) or 0
local unsearched = is_right and counter.whole(redis.call("HMGET", KEYS[1], "unsearched")[1], 0, is_right.next) or 0
return { is_right and 1 or 0, types, values, free, customers, pending, unsearched }
