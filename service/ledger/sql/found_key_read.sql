-- What the keys stand for.
WITH v (n, coupon_id, api_key_id, idempotency_key, redemption_id) AS (VALUES {rows})
SELECT v.n, {% known_id %} FROM v JOIN coupon c FORCE INDEX (PRIMARY) ON c.id = v.coupon_id;
