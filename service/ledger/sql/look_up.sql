-- Refused orders, at one moment and without a lock: the coupon (once for each code: `first`), the order's live redemption,
-- the refusal by status and window, the customer's seats (`1,2:0A1B…,3`, with the id where a hold's time is over), and what the
-- idempotency key stands for. Coupon and redemption come as JSON arrays: what the driver costs, it costs for each column, and
-- most of these are NULL.
--
-- Most refused orders are new, and without a limit per customer or a key there is nothing to say of them but what is said of their
-- coupon: they have no row, since each row is more work for whoever asked than for the server. A code of no coupon has none either.
--
-- The indexes are named, here and elsewhere: while the table's statistics are out of date, as after a coupon's first minute,
-- the server would sometimes read all redemptions of the coupon for each question.
WITH v (n, first, code, customer_id, order_id, api_key_id, idempotency_key) AS (VALUES {questions})
SELECT STRAIGHT_JOIN
    v.n,
    IF(v.first, JSON_ARRAY({% coupon_columns %}), NULL) AS coupon,
    IF(r.id IS NULL, NULL, JSON_ARRAY(
        HEX(r.id), r.coupon_id, c.code, r.customer_id, r.order_id, r.status, r.seat, r.expires_at, r.created_at, r.confirmed_at,
        r.ended_at, r.end_reason
    )) AS live,
    CASE
        WHEN c.status = 'archived' THEN 'coupon_not_found'
        WHEN c.status = 'paused' THEN 'coupon_paused'
        WHEN c.starts_at > UTC_TIMESTAMP(6) THEN 'coupon_not_started'
        WHEN c.ends_at <= UTC_TIMESTAMP(6) THEN 'coupon_ended'
    END AS refusal,
    COALESCE(c.busy_until > UTC_TIMESTAMP(6), 0) AS is_busy,
    IF(c.max_per_customer IS NULL, NULL, (
        SELECT GROUP_CONCAT(
            s.customer_seat, IF(s.status = 'reserved' AND s.expires_at <= UTC_TIMESTAMP(6), CONCAT(':', HEX(s.id)), '')
            ORDER BY s.customer_seat
        )
        FROM redemption s FORCE INDEX (redemption_customer_seat)
        WHERE s.customer_id = v.customer_id AND s.coupon_id = c.id AND s.customer_seat IS NOT NULL
    )) AS customer_seats,
    IF(v.idempotency_key IS NULL, NULL, {% known_id %}) AS known_id
FROM v
JOIN coupon c FORCE INDEX (coupon_code) ON c.code = v.code
LEFT JOIN redemption r FORCE INDEX (redemption_live_order) ON r.coupon_id = c.id AND r.live_order_id = v.order_id
WHERE v.first OR r.id IS NOT NULL OR c.max_per_customer IS NOT NULL OR v.idempotency_key IS NOT NULL;
