-- Coupons with their highest seats, however many redemptions they have.
SELECT
    -- Not MAX(): inside of another statement that reads all seats of the coupon, this reads one.
    COALESCE((
        SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
        WHERE s.coupon_id = c.id
        ORDER BY s.seat DESC LIMIT 1
    ), 0) AS seat_max,
    {% coupon_columns %}
FROM coupon c
WHERE c.code IN ({codes});
