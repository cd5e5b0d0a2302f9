-- Which redemptions sit on these seats.
WITH v (coupon_id, seat) AS (VALUES {seats})
SELECT STRAIGHT_JOIN s.coupon_id, s.seat, s.id
FROM v
JOIN redemption s FORCE INDEX (redemption_seat) ON s.coupon_id = v.coupon_id AND s.seat = v.seat;
