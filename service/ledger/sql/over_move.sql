-- Moves redemptions to free seats. WHERE their seat is still the old one: one that has ended meanwhile must not get a seat.
UPDATE (WITH v (id, coupon_id, old_seat, new_seat) AS (VALUES {moves}) SELECT * FROM v) v
STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.id = v.id AND r.coupon_id = v.coupon_id
SET r.seat = v.new_seat
WHERE r.seat = v.old_seat;
