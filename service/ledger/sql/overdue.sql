-- Holds whose time is over, after a certain one, the oldest first, by their key alone: it ends in the id.
SELECT r.id, r.expires_at FROM redemption r FORCE INDEX (redemption_expiry)
WHERE r.status = 'reserved' AND r.expires_at <= UTC_TIMESTAMP(6)
    AND r.expires_at >= {expires_at} AND (r.expires_at > {expires_at} OR r.id > {id})
ORDER BY r.expires_at, r.id LIMIT {limit};
