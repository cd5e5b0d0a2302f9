-- What the scripts share: how a coupon's keys are read, and what of them is believed. Anybody can write to Redis, so a
-- value counts only if it is what a script could have written; the rest is dropped and counts as missing.
-- A script gets these keys, all tagged with the coupon's code; one for many coupons gets them for each, and hands them on:
--   KEYS[1] hash  the counter: the fields below
--   KEYS[2] set   free: seats up to `next` that are in no row, in decimal
--   KEYS[3] hash  pending: order -> "seat customer_seat at", claimed and not yet settled; 0 where there is no such seat
--   KEYS[4] hash  customers: customer -> number of live redemptions, as far as claims have learned it
-- Fields of the counter, all in decimal but `status`. No limit, an open window and "never" are 0. Times are in ms.
--   coupon_id version status max_redemptions max_per_customer starts_at ends_at   the ledger's coupon
--   loaded      when these came from the ledger
--   next        the highest seat handed out
--   searched    when free seats were last looked for, and all that there were have been taken in
--   unsearched  up to here free seats are not known, since the counter was made or shrunk; only the reconciler reads it
local counter = {}

local KINDS = { "hash", "set", "hash", "hash" }
local FIELDS = { "coupon_id", "version", "status", "max_redemptions", "max_per_customer", "starts_at", "ends_at",
  "loaded", "next", "searched" }
local STATUSES = { active = true, paused = true, archived = true }
local WHOLE_MAX = 9007199254740991 -- 2^53 - 1: up to here every whole number is exact
local SEAT_MAX = 2000000000 -- the largest limit that a coupon can have
local PER_CUSTOMER_MAX = 1000 -- the largest limit per customer
local CHUNK = 1000 -- values in one redis.call, even: they pass over Lua's stack, which holds some 8,000
local SEARCH_INTERVAL_MS = 1000 -- a search costs the ledger a range count: at most one a second and coupon
local PENDING_MAX = 200000 -- more orders than all workers have under way: somebody else wrote them

-- The whole number that `text` is in canonical decimal ("7", not "07", "7.0" or "0x7"), from low to high; else nil.
function counter.whole(text, low, high)
  local number = tonumber(text)
  if number and number >= low and number <= high and string.format("%.0f", number) == text then
    return number
  end
  return nil
end

function counter.now_ms()
  local time = redis.call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The types that the four keys have, "none" where there is none, and whether they are what scripts make: of the right
-- type, and `pending` small enough to be read. Changes nothing.
function counter.types(keys)
  keys = keys or KEYS
  local found, fits = {}, {}
  for i, kind in ipairs(KINDS) do
    found[i] = redis.call("TYPE", keys[i]).ok
    fits[i] = found[i] == kind or found[i] == "none"
  end
  fits[3] = fits[3] and redis.call("HLEN", keys[3]) <= PENDING_MAX
  return found, fits
end

-- The counter's fields as text, in the order of FIELDS, false where one is missing. Changes nothing.
function counter.values(keys)
  return redis.call("HMGET", (keys or KEYS)[1], unpack(FIELDS))
end

-- The counter's fields as numbers and the status as text; nil where one is missing or cannot be right. Changes nothing.
function counter.parse(values)
  local whole = counter.whole
  local c = {
    coupon_id = whole(values[1], 1, WHOLE_MAX),
    version = whole(values[2], 0, WHOLE_MAX),
    status = STATUSES[values[3]] and values[3],
    max_redemptions = whole(values[4], 0, SEAT_MAX),
    max_per_customer = whole(values[5], 0, PER_CUSTOMER_MAX),
    starts_at = whole(values[6], 0, WHOLE_MAX),
    ends_at = whole(values[7], 0, WHOLE_MAX),
    loaded = whole(values[8], 0, WHOLE_MAX),
    searched = whole(values[10], 0, WHOLE_MAX),
  }
  c.next = c.max_redemptions and whole(values[9], 0, c.max_redemptions)
  for _, field in ipairs(FIELDS) do
    if not c[field] then
      return nil
    end
  end
  return c
end

-- The counter as `parse` gives it. What cannot be right is dropped, and counts as missing.
function counter.read(keys)
  keys = keys or KEYS
  local _, fits = counter.types(keys)
  for i, key in ipairs(keys) do
    if not fits[i] then
      redis.call("UNLINK", key)
    end
  end
  local c = counter.parse(counter.values(keys))
  if not c then
    redis.call("UNLINK", keys[1])
  end
  return c
end

-- The counter as `parse` gives it, or nil, for scripts that change nothing.
function counter.peek()
  local _, fits = counter.types()
  if not (fits[1] and fits[2] and fits[3] and fits[4]) then
    return nil
  end
  return counter.parse(counter.values())
end

-- When free seats were last looked for: 0 never, 1 so long ago that a search is due, 2 within the last second.
function counter.search(c, now_ms)
  if c.searched == 0 then
    return 0
  elseif now_ms < c.searched or now_ms - c.searched >= SEARCH_INTERVAL_MS then
    return 1
  end
  return 2
end

-- The seat, the customer's seat and the time of a pending order's value; nil where it is missing, malformed or too old.
function counter.held(value, now_ms, age_max_ms)
  local seat, customer_seat, at = string.match(value or "", "^(%d+) (%d+) (%d+)$")
  if not seat or math.abs(now_ms - at) > age_max_ms then
    return nil
  end
  return tonumber(seat), tonumber(customer_seat), tonumber(at)
end

-- The values of many fields of a hash, in their order; false where one is missing.
function counter.get_all(key, fields)
  if #fields <= CHUNK then
    return #fields > 0 and redis.call("HMGET", key, unpack(fields)) or {}
  end
  local values = {}
  for first = 1, #fields, CHUNK do
    local last = math.min(first + CHUNK - 1, #fields)
    for i, value in ipairs(redis.call("HMGET", key, unpack(fields, first, last))) do
      values[first + i - 1] = value
    end
  end
  return values
end

-- 1 for each of many members that a set has, 0 for each other, in their order.
function counter.are_members(key, members)
  local found = {}
  for first = 1, #members, CHUNK do
    local last = math.min(first + CHUNK - 1, #members)
    for i, is_member in ipairs(redis.call("SMISMEMBER", key, unpack(members, first, last))) do
      found[first + i - 1] = is_member
    end
  end
  return found
end

-- A command with many values, in pieces; nothing for none. The sum of what the pieces return.
function counter.put_all(command, key, values)
  local sum = 0
  for first = 1, #values, CHUNK do
    sum = sum + redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
  return sum
end

-- The orders that are pending: order -> seat. What is malformed or too old leaves.
function counter.sweep_pending(now_ms, age_max_ms, keys)
  local pending = (keys or KEYS)[3]
  local flat, seats, gone = redis.call("HGETALL", pending), {}, {}
  for i = 1, #flat, 2 do
    seats[flat[i]] = counter.held(flat[i + 1], now_ms, age_max_ms)
    if not seats[flat[i]] then
      gone[#gone + 1] = flat[i]
    end
  end
  counter.put_all("HDEL", pending, gone)
  return seats
end

-- All keys of a coupon leave together, when nobody has asked for it so long.
function counter.keep(idle_s, keys)
  for _, key in ipairs(keys or KEYS) do
    redis.call("EXPIRE", key, idle_s)
  end
end

return counter
