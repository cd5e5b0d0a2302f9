-- Records claimed redemptions, those with `expires_at` as holds: a batch, sorted by coupon and seat. Affected rows = rows sent is the normal case.
--
-- The shared lock on the coupon makes a pause or a lowered limit exact: it waits for this statement, or this statement sees it.
-- SKIP LOCKED: the rows of a coupon that is being changed are left out instead of stopping all the others.
-- STRAIGHT_JOIN and the index: from the rows to their coupons, one by one; any other way would lock coupons that are in no row.
-- ON DUPLICATE KEY UPDATE id = id changes nothing and counts as 0; unlike INSERT IGNORE it leaves all other errors errors.
-- On an id that a transaction still holds, it waits for that transaction's end.
-- Keys that have found a redemption are read with a lock, which is to read what is there now: what is remembered just now is
-- remembered under the coupon's lock, and a plain read would see the keys as they were when this statement read its first one.
INSERT INTO redemption (
    id, coupon_id, customer_id, order_id, status, seat, customer_seat, live_order_id, api_key_id, created_at, confirmed_at,
    expires_at, idempotency_key
)
WITH v (id, coupon_id, customer_id, order_id, seat, customer_seat, api_key_id, created_at, expires_at, idempotency_key)
AS (VALUES {rows})
SELECT STRAIGHT_JOIN
    v.id, v.coupon_id, v.customer_id, v.order_id, IF(v.expires_at IS NULL, 'confirmed', 'reserved'), v.seat, v.customer_seat,
    v.order_id, v.api_key_id, v.created_at, IF(v.expires_at IS NULL, v.created_at, NULL), v.expires_at, v.idempotency_key
FROM v
JOIN coupon c FORCE INDEX (PRIMARY) ON c.id = v.coupon_id
WHERE
    {% coupon_admits %}
    AND (v.idempotency_key IS NULL OR NOT EXISTS (
        SELECT 1 FROM found_key f
        WHERE f.coupon_id = c.id AND f.api_key_id = v.api_key_id AND f.idempotency_key = v.idempotency_key
        LOCK IN SHARE MODE
    ))
LOCK IN SHARE MODE SKIP LOCKED
ON DUPLICATE KEY UPDATE id = redemption.id;
