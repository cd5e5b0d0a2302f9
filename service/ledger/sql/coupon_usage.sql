-- Live redemptions by status, and when they were counted; holds whose time is over are not live. The key with the time alone is read.
SELECT
    COUNT(IF(r.status = 'reserved' AND r.expires_at > UTC_TIMESTAMP(6), 1, NULL)),
    COUNT(IF(r.status = 'confirmed', 1, NULL)),
    UTC_TIMESTAMP(6)
FROM redemption r FORCE INDEX (redemption_coupon_expiry)
WHERE r.coupon_id = {coupon_id} AND r.status IN ('reserved', 'confirmed');
