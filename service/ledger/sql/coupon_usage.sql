-- Live redemptions by status, and when they were counted. The key by status alone is read.
SELECT
    COUNT(IF(r.status = 'reserved', 1, NULL)),
    COUNT(IF(r.status = 'confirmed', 1, NULL)),
    UTC_TIMESTAMP(6)
FROM redemption r FORCE INDEX (redemption_coupon_status)
WHERE r.coupon_id = {coupon_id} AND r.status IN ('reserved', 'confirmed');
