-- How many of these seats a row sits on. The seat's key alone is read.
SELECT COUNT(*) FROM redemption s FORCE INDEX (redemption_seat)
WHERE s.coupon_id = {coupon_id} AND s.seat BETWEEN {begin} AND {end};
