-- By their key alone, and no further than it matters.
SELECT COUNT(*) FROM (
    SELECT 1 FROM redemption r FORCE INDEX (redemption_expiry)
    WHERE r.status = 'reserved' AND r.expires_at <= UTC_TIMESTAMP(6)
    LIMIT {limit}
) h;
