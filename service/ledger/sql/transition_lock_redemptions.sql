-- Redemptions that change status, locked in the order of their ids. One that somebody else holds is left out, instead of stopping
-- all the others.
SELECT
    r.id, r.coupon_id, r.customer_id, r.order_id, r.status, r.seat, r.was_seat, r.expires_at, r.created_at, r.confirmed_at,
    r.ended_at, r.end_reason,
    -- The time when the row is locked, not when the statement began.
    SYSDATE(6)
FROM redemption r FORCE INDEX (PRIMARY)
WHERE (r.id, r.coupon_id) IN ({keys})
ORDER BY r.id
FOR UPDATE SKIP LOCKED;
