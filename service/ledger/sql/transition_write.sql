-- The new state of redemptions that are locked already. An ended one sits nowhere, and its order may redeem again.
UPDATE (
    WITH v (id, coupon_id, status, was_seat, expires_at, confirmed_at, ended_at, end_reason) AS (VALUES {rows}) SELECT * FROM v
) v
STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.id = v.id AND r.coupon_id = v.coupon_id
SET
    r.status = v.status,
    r.seat = IF(v.ended_at IS NULL, r.seat, NULL),
    r.customer_seat = IF(v.ended_at IS NULL, r.customer_seat, NULL),
    r.live_order_id = IF(v.ended_at IS NULL, r.live_order_id, NULL),
    r.was_seat = v.was_seat,
    r.expires_at = v.expires_at,
    r.confirmed_at = v.confirmed_at,
    r.ended_at = v.ended_at,
    r.end_reason = v.end_reason;
