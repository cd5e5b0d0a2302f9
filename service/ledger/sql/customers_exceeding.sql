-- Customers in this part of their key who sit on a seat above their coupon's limit. The lowest limit is 1, so the first seats,
-- which are nearly all, are left out before their coupons are looked at.
SELECT STRAIGHT_JOIN c.code, s.customer_id, MAX(s.customer_seat), c.max_per_customer
FROM redemption s FORCE INDEX (redemption_customer_seat)
JOIN coupon c FORCE INDEX (PRIMARY) ON c.id = s.coupon_id
WHERE ({part}) AND s.customer_seat > 1 AND s.customer_seat > c.max_per_customer
GROUP BY c.code, s.customer_id, c.max_per_customer;
