-- A limit has been lowered only where the version has risen.
SELECT COUNT(*) FROM coupon c
WHERE c.version > 1 AND c.max_redemptions < (
    -- The highest seat is one row; see over_find.sql.
    SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
    WHERE s.coupon_id = c.id
    ORDER BY s.seat DESC LIMIT 1
);
