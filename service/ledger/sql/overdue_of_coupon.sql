-- Holds of a coupon whose time is over, by its key alone.
SELECT r.id FROM redemption r FORCE INDEX (redemption_coupon_expiry)
WHERE r.coupon_id = {coupon_id} AND r.status = 'reserved' AND r.expires_at <= UTC_TIMESTAMP(6)
ORDER BY r.expires_at LIMIT {limit};
