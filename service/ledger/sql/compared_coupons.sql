-- Coupons with what their counters are compared with: whether there ever was a redemption, whether a large move is under way, the
-- highest seat in a row, and the highest one that is not above the limit.
SELECT
    EXISTS (SELECT 1 FROM redemption r FORCE INDEX (redemption_coupon_status) WHERE r.coupon_id = c.id) AS is_redeemed,
    COALESCE(c.busy_until > UTC_TIMESTAMP(6), 0) AS is_busy,
    -- Not MAX(): inside of another statement that reads all seats of the coupon, these read one.
    COALESCE((
        SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
        WHERE s.coupon_id = c.id
        ORDER BY s.seat DESC LIMIT 1
    ), 0) AS seat_max,
    COALESCE((
        SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
        WHERE s.coupon_id = c.id AND s.seat <= c.max_redemptions
        ORDER BY s.seat DESC LIMIT 1
    ), 0) AS seat_high,
    {% coupon_columns %}
FROM coupon c
WHERE {condition}
ORDER BY c.id LIMIT {limit};
