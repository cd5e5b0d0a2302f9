-- Why rows did not land, one answer for each, non-locking. The order in which the answers are looked at is the caller's.
WITH v (n, coupon_id, customer_id, order_id, seat, customer_seat, api_key_id, idempotency_key) AS (VALUES {rows})
SELECT STRAIGHT_JOIN
    v.n,
    -- NULL where there is no such coupon.
    COALESCE({% coupon_admits %}, 0) AS admits,
    EXISTS (
        SELECT 1 FROM redemption s FORCE INDEX (redemption_customer_seat)
        WHERE s.customer_id = v.customer_id AND s.coupon_id = v.coupon_id AND s.customer_seat = v.customer_seat
    ) AS customer_seat_taken,
    EXISTS (
        SELECT 1 FROM redemption s FORCE INDEX (redemption_seat) WHERE s.coupon_id = v.coupon_id AND s.seat = v.seat
    ) AS seat_taken,
    {% known_id %} AS known_id,
    {% redemption_columns %}
FROM v
LEFT JOIN coupon c FORCE INDEX (PRIMARY) ON c.id = v.coupon_id
LEFT JOIN redemption r FORCE INDEX (redemption_live_order)
    ON r.coupon_id = v.coupon_id AND r.live_order_id = v.order_id;
