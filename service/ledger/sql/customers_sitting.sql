-- The live redemptions of these customers, each by its customer's number, by their key alone.
WITH v (n, coupon_id, customer_id) AS (VALUES {customers})
SELECT STRAIGHT_JOIN v.n, s.id
FROM v
JOIN redemption s FORCE INDEX (redemption_customer_seat)
    ON s.customer_id = v.customer_id AND s.coupon_id = v.coupon_id AND s.customer_seat >= 1;
