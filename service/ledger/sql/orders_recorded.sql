-- Which of these orders are live, or have been recorded since they claimed and ended.
WITH v (order_id, claimed_at) AS (VALUES {claims})
SELECT DISTINCT STRAIGHT_JOIN v.order_id
FROM v
JOIN redemption r FORCE INDEX (redemption_order) ON r.order_id = v.order_id AND r.coupon_id = {coupon_id}
WHERE r.live_order_id IS NOT NULL OR r.created_at >= v.claimed_at;
