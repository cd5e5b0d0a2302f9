#!lua
-- Claims seats of one coupon for a batch of wishes. An order that is pending gets its own seat again; any other is
-- refused, or gets a free seat, else the next one.
--
-- KEYS[1] hash  usher:1:{GOLD20}:counter
-- KEYS[2] set   usher:1:{GOLD20}:free
-- KEYS[3] hash  usher:1:{GOLD20}:pending
-- KEYS[4] hash  usher:1:{GOLD20}:customers
-- ARGV[1] age_max_ms       7000             a pending order that is older counts as absent
-- ARGV[2] idle_s           86400            the keys leave when nobody has asked for so long
-- ARGV[3] settled          ["o1","o2"]      JSON: orders that leave `pending`
-- ARGV[4] settled_seats    [4,0]            JSON: the seat that each was claimed with; it leaves only with that
-- ARGV[5] orders           ["o7","o8"]      JSON: one order per wish
-- ARGV[6] customers        ["ann","bob"]    JSON: the customers who wish
-- ARGV[7] notes            [2,1,0,0,-1]     JSON: five numbers for each wish that is not plain: its place, from 1 on;
--                                           again, 0 or 1: the pending seat has collided, another one;
--                                           vouched, 0 or 1: the ledger has allowed it, by status and window;
--                                           customer_seat, or 0: the one to take, by the ledger;
--                                           customer_live, or -1: the customer's live redemptions, by the ledger
-- Returns {0}: not loaded, nothing claimed
-- Returns {1, coupon_id, version, search, answer, seat, customer_seat, answer, seat, customer_seat, …}: per wish three
--   search: 0 never searched, 1 search due, 2 searched within the last second
--   answer: 0 claimed; 1 archived, 2 paused, 3 not started, 4 ended, 5 customer limit reached, 6 exhausted
--   seat, customer_seat: 0 where there is none
-- Example: with `next` 4 and limit 5, {1, 77, 3, 0, 0, 5, 1, 6, 0, 0}: ann gets seat 5 and bob is told "exhausted".
assert(#KEYS == 4, "claim: the four keys of a coupon")
assert(#ARGV == 7, "claim: age_max_ms, idle_s, settled, settled_seats, orders, customers, notes")
local counter = require("counter")

local age_max_ms, idle_s = tonumber(ARGV[1]), ARGV[2]
local settled, settled_seats = cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local orders, customers, flat_notes = cjson.decode(ARGV[5]), cjson.decode(ARGV[6]), cjson.decode(ARGV[7])

local PLAIN = { again = false, vouched = false, customer_seat = 0, customer_live = -1 }
local CLAIMED, ARCHIVED, PAUSED, NOT_STARTED, ENDED, CUSTOMER_LIMIT_REACHED, EXHAUSTED = 0, 1, 2, 3, 4, 5, 6

local c = counter.read()
local now_ms = counter.now_ms()

local gone = {}
for i, value in ipairs(counter.get_all(KEYS[3], settled)) do
  if value and tonumber(string.match(value, "^%d+")) == settled_seats[i] then
    gone[#gone + 1] = settled[i]
  end
end
counter.put_all("HDEL", KEYS[3], gone)
if not c then
  return { 0 }
end

local has_seats, has_customer_seats = c.max_redemptions > 0, c.max_per_customer > 0
local is_tracked = has_seats or has_customer_seats

local notes = {}
for i = 1, #flat_notes, 5 do
  notes[flat_notes[i]] = { again = flat_notes[i + 1] == 1, vouched = flat_notes[i + 2] == 1,
    customer_seat = flat_notes[i + 3], customer_live = flat_notes[i + 4] }
end

-- What everybody is told whom the ledger has not vouched for; nil when the coupon may be redeemed.
local bar = nil
if c.status == "archived" then
  bar = ARCHIVED
elseif c.status == "paused" then
  bar = PAUSED
elseif now_ms < c.starts_at then
  bar = NOT_STARTED
elseif c.ends_at > 0 and now_ms >= c.ends_at then
  bar = ENDED
end

-- What is pending: order -> seat, and order -> customer's seat.
local held_seat, held_customer_seat = {}, {}
if is_tracked then
  for i, value in ipairs(counter.get_all(KEYS[3], orders)) do
    if value then
      local seat, customer_seat = counter.held(value, now_ms, age_max_ms)
      local seat_fits = seat and seat <= c.max_redemptions and (seat > 0) == has_seats
      if seat_fits and customer_seat <= c.max_per_customer and (customer_seat > 0) == has_customer_seats then
        held_seat[orders[i]], held_customer_seat[orders[i]] = seat, customer_seat
      end
    end
  end
end

-- Customer -> live redemptions.
local counts = {}
if has_customer_seats then
  for i, value in ipairs(counter.get_all(KEYS[4], customers)) do
    counts[customers[i]] = counter.whole(value, 0, c.max_per_customer) or 0
  end
end

-- Free seats, enough for all. One that cannot be free proves that the set was written by somebody else: it is dropped
-- whole, however large it is, and what is free will be searched for anew.
local free, free_used, next_seat, searched = {}, 0, c.next, c.searched
if has_seats then
  free = redis.call("SRANDMEMBER", KEYS[2], #orders)
  for i, member in ipairs(free) do
    free[i] = counter.whole(member, 1, c.next)
    if not free[i] then
      redis.call("UNLINK", KEYS[2])
      free, searched = {}, 0
      break
    end
  end
end

-- A free seat, else the next one; nil when there is none.
local function take_seat()
  if free_used < #free then
    free_used = free_used + 1
    return free[free_used]
  elseif next_seat < c.max_redemptions then
    next_seat = next_seat + 1
    return next_seat
  end
  return nil
end

-- Whose entry in `pending` and in `customers` is to be written.
local changed_orders, changed_customers = {}, {}

local function set_count(customer, count)
  counts[customer], changed_customers[customer] = math.max(0, math.min(count, c.max_per_customer)), true
end

local function set_held(order, seat, customer_seat)
  held_seat[order], held_customer_seat[order], changed_orders[order] = seat, customer_seat, true
end

-- One wish: its answer, seat and customer's seat.
local function grant(order, customer, note)
  local seat, customer_seat, count = held_seat[order], held_customer_seat[order], 0
  if seat and not note.again and note.customer_seat == 0 then
    return CLAIMED, seat, customer_seat
  end
  if seat and has_customer_seats then
    set_count(customer, counts[customer] - 1)
  end
  if seat and note.again then
    -- Given up, so that a refusal leaves nothing behind. The customer's seat has not collided: it stays first choice.
    seat = nil
    set_held(order, nil, nil)
  end
  if bar and not seat and not note.vouched then
    return bar, 0, 0
  end
  if has_customer_seats then
    count = note.customer_live >= 0 and note.customer_live or counts[customer]
    customer_seat = note.customer_seat > 0 and note.customer_seat or customer_seat or count + 1
    if customer_seat > c.max_per_customer then
      return CUSTOMER_LIMIT_REACHED, 0, 0
    end
  end
  if has_seats and not seat then
    seat = take_seat()
    if not seat then
      return EXHAUSTED, 0, 0
    end
  end
  if has_customer_seats then
    set_count(customer, count + 1)
  end
  seat, customer_seat = seat or 0, customer_seat or 0
  if is_tracked then
    set_held(order, seat, customer_seat)
  end
  return CLAIMED, seat, customer_seat
end

local reply, at = { 1, c.coupon_id, c.version, counter.search({ searched = searched }, now_ms) }, 4
for i, order in ipairs(orders) do
  reply[at + 1], reply[at + 2], reply[at + 3] = grant(order, customers[i], notes[i] or PLAIN)
  at = at + 3
end

if next_seat ~= c.next or searched ~= c.searched then
  redis.call("HSET", KEYS[1], "next", next_seat, "searched", searched)
end
local used = {}
for i = 1, free_used do
  used[i] = free[i]
end
counter.put_all("SREM", KEYS[2], used)

-- Numbers are slow to print: what follows the seat is made once for each customer's seat.
local tails, pending, no_longer_pending = {}, {}, {}
for order in pairs(changed_orders) do
  local seat, customer_seat = held_seat[order], held_customer_seat[order]
  if seat then
    tails[customer_seat] = tails[customer_seat] or " " .. customer_seat .. " " .. now_ms
    pending[#pending + 1] = order
    pending[#pending + 1] = seat .. tails[customer_seat]
  else
    no_longer_pending[#no_longer_pending + 1] = order
  end
end
counter.put_all("HDEL", KEYS[3], no_longer_pending)
counter.put_all("HSET", KEYS[3], pending)

local live = {}
for customer in pairs(changed_customers) do
  live[#live + 1] = customer
  live[#live + 1] = counts[customer]
end
counter.put_all("HSET", KEYS[4], live)
counter.keep(idle_s)
return reply
