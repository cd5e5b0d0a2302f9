-- Customers of one coupon who sit on a seat above its limit. Their rows are read in the order in which they lie in the table.
SELECT s.customer_id, MAX(s.customer_seat)
FROM redemption s FORCE INDEX (redemption_coupon_status)
WHERE s.coupon_id = {coupon_id} AND s.status = {status} AND s.id > {after_id} AND s.id <= {last_id}
    AND s.customer_seat > {max_per_customer}
GROUP BY s.customer_id;
