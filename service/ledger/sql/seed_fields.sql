-- What a counter is made of, in the order of CouponSeed: 0 where there is no limit or the window is open, times in ms since 1970.
c.code,
-- Not MAX(): inside of another statement that reads all seats of the coupon, this reads one.
COALESCE((
    SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
    WHERE s.coupon_id = c.id
    ORDER BY s.seat DESC LIMIT 1
), 0),
c.id, c.version, c.status, COALESCE(c.max_redemptions, 0), COALESCE(c.max_per_customer, 0),
COALESCE(GREATEST(1, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', c.starts_at) DIV 1000), 0),
COALESCE(GREATEST(1, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', c.ends_at) DIV 1000), 0)
