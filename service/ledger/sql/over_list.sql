-- Live redemptions on seats above the limit of a coupon that is locked exclusively, the highest first.
SELECT s.id, s.seat FROM redemption s FORCE INDEX (redemption_seat)
WHERE s.coupon_id = {coupon_id} AND s.seat > {max_redemptions}
ORDER BY s.seat DESC LIMIT {limit};
