-- Which of these coupons have live redemptions on seats above their limits.
WITH v (coupon_id, max_redemptions) AS (VALUES {limits})
SELECT v.coupon_id
FROM v
WHERE (
    -- The highest seat is one row. To look for any above a limit that is not a constant reads all seats of the coupon.
    SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
    WHERE s.coupon_id = v.coupon_id
    ORDER BY s.seat DESC LIMIT 1
) > v.max_redemptions;
