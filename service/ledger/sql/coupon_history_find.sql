-- A coupon's versions, the newest first.
SELECT h.version, h.changed_at, h.changed_by, h.before_change, h.after_change
FROM coupon_history h
WHERE h.coupon_id = (SELECT c.id FROM coupon c WHERE c.code = {code}) AND h.version < {below_version}
ORDER BY h.version DESC LIMIT {limit};
