-- Records claimed redemptions as confirmed: a batch, sorted by coupon and seat. Affected rows = rows sent is the normal case.
--
-- The shared lock on the coupon makes a pause or a lowered limit exact: it waits for this statement, or this statement sees it.
-- SKIP LOCKED: the rows of a coupon that is being changed are left out instead of stopping all the others.
-- STRAIGHT_JOIN and the index: from the rows to their coupons, one by one; any other way would lock coupons that are in no row.
-- ON DUPLICATE KEY UPDATE id = id changes nothing and counts as 0; unlike INSERT IGNORE it leaves all other errors errors.
-- On an id that a transaction still holds, it waits for that transaction's end.
INSERT INTO redemption (
    id, coupon_id, customer_id, order_id, status, seat, customer_seat, live_order_id, api_key_id, created_at, confirmed_at
)
WITH v (id, coupon_id, customer_id, order_id, seat, customer_seat, api_key_id, created_at) AS (VALUES {rows})
SELECT STRAIGHT_JOIN
    v.id, v.coupon_id, v.customer_id, v.order_id, 'confirmed', v.seat, v.customer_seat, v.order_id, v.api_key_id,
    v.created_at, v.created_at
FROM v
JOIN coupon c FORCE INDEX (PRIMARY) ON c.id = v.coupon_id
WHERE
    {% coupon_admits %}
LOCK IN SHARE MODE SKIP LOCKED
ON DUPLICATE KEY UPDATE id = redemption.id;
