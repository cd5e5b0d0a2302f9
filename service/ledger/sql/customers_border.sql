-- The customer and coupon so many entries further on, in the order of the customers' key.
SELECT s.customer_id, s.coupon_id FROM redemption s FORCE INDEX (redemption_customer_seat)
WHERE s.customer_id > {customer_id} OR (s.customer_id = {customer_id} AND s.coupon_id >= {coupon_id})
ORDER BY s.customer_id, s.coupon_id LIMIT 1 OFFSET {entries};
