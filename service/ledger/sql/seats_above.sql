-- Redemptions on seats above this one, the lowest first, and when they were made.
SELECT s.seat, s.created_at FROM redemption s FORCE INDEX (redemption_seat)
WHERE s.coupon_id = {coupon_id} AND s.seat > {seat}
ORDER BY s.seat LIMIT {limit};
