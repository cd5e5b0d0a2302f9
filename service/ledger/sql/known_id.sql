-- The redemption of the coupon c that the idempotency key of the row v has made or found; NULL without such a key.
COALESCE(
    (
        SELECT k.id FROM redemption k FORCE INDEX (redemption_idempotency_key)
        WHERE k.coupon_id = c.id AND k.api_key_id = v.api_key_id AND k.idempotency_key = v.idempotency_key
    ),
    (
        SELECT f.redemption_id FROM found_key f
        WHERE f.coupon_id = c.id AND f.api_key_id = v.api_key_id AND f.idempotency_key = v.idempotency_key
    )
)
