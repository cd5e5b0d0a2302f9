-- The coupon's limits, each since when; the latest change first.
SELECT h.version, h.changed_at, CAST(JSON_VALUE(h.after_change, '$.max_redemptions') AS UNSIGNED)
FROM coupon_history h
WHERE h.coupon_id = {coupon_id} AND h.version < {below_version}
ORDER BY h.version DESC LIMIT {limit};
