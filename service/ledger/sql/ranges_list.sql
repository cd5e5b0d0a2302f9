-- The seats in rows of these ranges, one text for each coupon.
SELECT s.coupon_id, GROUP_CONCAT(s.seat)
FROM redemption s FORCE INDEX (redemption_seat)
WHERE {ranges}
GROUP BY s.coupon_id;
