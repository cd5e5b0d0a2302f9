-- The id so many redemptions of a coupon further on.
SELECT s.id FROM redemption s FORCE INDEX (redemption_coupon_status)
WHERE s.coupon_id = {coupon_id} AND s.status = {status} AND s.id > {after_id}
ORDER BY s.id LIMIT 1 OFFSET {entries};
