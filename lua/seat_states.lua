#!lua flags=no-writes
-- What a counter says of some seats. Changes nothing.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_max_ms   7000           a pending order that is older counts as absent
-- ARGV[2] seats        [2,3,9,"x"]    JSON: seats, and whatever else may be a member of `free`
-- Returns {}: the counter is missing, or cannot be right
-- Returns {coupon_id, version, next, state, state, …}: {77, 3, 4, 2, 3, 0, 2}, a state for each of `seats`
--   state: 0 above `next`, or no seat; 1 handed out; 2 free; 3 pending
assert(#KEYS == 4, "seat_states: the four keys of a coupon")
assert(#ARGV == 2, "seat_states: age_max_ms, seats")
local counter = require("counter")

local age_max_ms, seats = tonumber(ARGV[1]), cjson.decode(ARGV[2])
local ABOVE, HANDED_OUT, FREE, PENDING = 0, 1, 2, 3

local c = counter.peek()
if not c then
  return {}
end

local now_ms, is_pending = counter.now_ms(), {}
for _, value in ipairs(redis.call("HVALS", KEYS[3])) do
  local seat = counter.held(value, now_ms, age_max_ms)
  if seat then
    is_pending[seat] = true
  end
end

local reply = { c.coupon_id, c.version, c.next }
for i, is_free in ipairs(counter.are_members(KEYS[2], seats)) do
  local seat = tonumber(seats[i])
  local state = ABOVE
  if is_free == 1 then
    state = FREE
  elseif seat and is_pending[seat] then
    state = PENDING
  elseif seat and seat >= 1 and seat <= c.next then
    state = HANDED_OUT
  end
  reply[3 + i] = state
end
return reply
