-- Remembers which redemptions keys have found, unless a key stands for a redemption already.
INSERT INTO found_key (coupon_id, api_key_id, idempotency_key, redemption_id)
WITH v (n, coupon_id, api_key_id, idempotency_key, redemption_id) AS (VALUES {rows})
SELECT v.coupon_id, v.api_key_id, v.idempotency_key, v.redemption_id
FROM v
WHERE NOT EXISTS (
    SELECT 1 FROM redemption k FORCE INDEX (redemption_idempotency_key)
    WHERE k.coupon_id = v.coupon_id AND k.api_key_id = v.api_key_id AND k.idempotency_key = v.idempotency_key
)
ON DUPLICATE KEY UPDATE redemption_id = found_key.redemption_id;
