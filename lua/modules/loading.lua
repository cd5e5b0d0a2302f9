-- How a counter is made from the ledger: the same for one coupon and for many.
local loading = {}

-- Makes the counter behind `keys`, where it is missing or differs: nothing is free, and no search has been made. Orders
-- that are pending and customers' counts stay, unless they were another coupon's; what is pending is not handed out again.
-- fresh: the ledger's coupon by the names of the counter's fields, and seat_max, the highest seat in any row of it
-- how.now_ms, how.age_max_ms, how.idle_s: as the scripts have them; how.force: also where the counter says the same
-- Returns 1: made; 0: left alone
function loading.load(counter, keys, fresh, how)
  local found = redis.call("EXISTS", unpack(keys))
  local c = found > 0 and counter.read(keys)
  if c and c.coupon_id == fresh.coupon_id then
    -- A reader is late by its deadline at most. Beyond that a newer version is not newer: it was written by hand, or the
    -- ledger was restored.
    local is_newer = c.version > fresh.version and math.abs(how.now_ms - c.loaded) <= how.age_max_ms
    local is_same = c.version == fresh.version and c.status == fresh.status
      and c.max_redemptions == fresh.max_redemptions and c.max_per_customer == fresh.max_per_customer
      and c.starts_at == fresh.starts_at and c.ends_at == fresh.ends_at
    if is_newer or (is_same and not how.force) then
      return 0
    end
  elseif c then
    redis.call("UNLINK", keys[3], keys[4])
  end

  local kept, next_seat = { keys[1] }, fresh.seat_max
  if found > (c and 1 or 0) then -- there is, or was, more than the counter itself
    kept = keys
    redis.call("UNLINK", keys[2])
    if how.age_max_ms >= 0 then
      for _, seat in pairs(counter.sweep_pending(how.now_ms, how.age_max_ms, keys)) do
        next_seat = math.max(next_seat, seat)
      end
    end
  end

  next_seat = math.min(next_seat, fresh.max_redemptions)
  redis.call("HSET", keys[1], "coupon_id", fresh.coupon_id, "version", fresh.version, "status", fresh.status,
    "max_redemptions", fresh.max_redemptions, "max_per_customer", fresh.max_per_customer,
    "starts_at", fresh.starts_at, "ends_at", fresh.ends_at, "loaded", how.now_ms,
    "next", next_seat, "searched", 0, "unsearched", next_seat)
  counter.keep(how.idle_s, kept)
  return 1
end

return loading
