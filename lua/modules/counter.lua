-- What the scripts share: how a coupon's keys are read, and what of them is believed. Anybody can write to Redis, so a
-- value counts only if it is what a script could have written; the rest is dropped and counts as missing.
-- Every script gets the same keys, all tagged with the coupon's code:
--   KEYS[1] hash  the counter: the fields below
--   KEYS[2] set   free: seats up to `next` that are in no row, in decimal
--   KEYS[3] hash  pending: order -> "seat customer_seat at", claimed and not yet settled; 0 where there is no such seat
--   KEYS[4] hash  customers: customer -> number of live redemptions, as far as claims have learned it
-- Fields of the counter, all in decimal but `status`. No limit, an open window and "never" are 0. Times are in ms.
--   coupon_id version status max_redemptions max_per_customer starts_at ends_at   the ledger's coupon
--   loaded      when these came from the ledger
--   next        the highest seat handed out
--   searched    when free seats were last looked for, and all that there were have been taken in
local counter = {}

local KINDS = { "hash", "set", "hash", "hash" }
local FIELDS = { "coupon_id", "version", "status", "max_redemptions", "max_per_customer", "starts_at", "ends_at",
  "loaded", "next", "searched" }
local STATUSES = { active = true, paused = true, archived = true }
local WHOLE_MAX = 9007199254740991 -- 2^53 - 1: up to here every whole number is exact
local SEAT_MAX = 2000000000 -- the largest limit that a coupon can have
local PER_CUSTOMER_MAX = 1000 -- the largest limit per customer
local CHUNK = 1000 -- values in one redis.call, even: they pass over Lua's stack, which holds some 8,000
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

-- Drops what has the wrong type, and a `pending` too large to be read.
local function drop_strange_keys()
  for i, kind in ipairs(KINDS) do
    local found = redis.call("TYPE", KEYS[i]).ok
    if found ~= kind and found ~= "none" then
      redis.call("UNLINK", KEYS[i])
    end
  end
  if redis.call("HLEN", KEYS[3]) > PENDING_MAX then
    redis.call("UNLINK", KEYS[3])
  end
end

-- The counter's fields as numbers and the status as text; nil where it is missing or cannot be right.
function counter.read()
  drop_strange_keys()
  local values = redis.call("HMGET", KEYS[1], unpack(FIELDS))
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
      redis.call("UNLINK", KEYS[1])
      return nil
    end
  end
  return c
end

-- The seat and the customer's seat of a pending order's value; nil where it is missing, malformed or too old.
function counter.held(value, now_ms, age_max_ms)
  local seat, customer_seat, at = string.match(value or "", "^(%d+) (%d+) (%d+)$")
  if not seat or math.abs(now_ms - at) > age_max_ms then
    return nil
  end
  return tonumber(seat), tonumber(customer_seat)
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

-- A command with many values, in pieces; nothing for none. The sum of what the pieces return.
function counter.put_all(command, key, values)
  local sum = 0
  for first = 1, #values, CHUNK do
    sum = sum + redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
  return sum
end

-- The orders that are pending: order -> seat. What is malformed or too old leaves.
function counter.sweep_pending(now_ms, age_max_ms)
  local flat, seats, gone = redis.call("HGETALL", KEYS[3]), {}, {}
  for i = 1, #flat, 2 do
    seats[flat[i]] = counter.held(flat[i + 1], now_ms, age_max_ms)
    if not seats[flat[i]] then
      gone[#gone + 1] = flat[i]
    end
  end
  counter.put_all("HDEL", KEYS[3], gone)
  return seats
end

-- All keys of a coupon leave together, when nobody has asked for it so long.
function counter.keep(idle_s)
  for _, key in ipairs(KEYS) do
    redis.call("EXPIRE", key, idle_s)
  end
end

return counter
