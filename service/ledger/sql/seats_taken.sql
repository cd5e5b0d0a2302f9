-- Which of these seats are in a row, whatever coupon they belong to.
WITH v (coupon_id, seat) AS (VALUES {seats})
SELECT STRAIGHT_JOIN s.coupon_id, s.seat
FROM v
JOIN redemption s FORCE INDEX (redemption_seat) ON s.coupon_id = v.coupon_id AND s.seat = v.seat;
