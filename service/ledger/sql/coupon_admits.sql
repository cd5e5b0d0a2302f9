-- Whether the coupon c admits the row v. Without BETWEEN 1 AND, seat 0 would be one redemption too many.
-- In a comparison with NULL, a limit without a seat and a seat without a limit are both refused.
    c.status = 'active'
    AND (c.starts_at IS NULL OR c.starts_at <= UTC_TIMESTAMP(6))
    AND (c.ends_at IS NULL OR c.ends_at > UTC_TIMESTAMP(6))
    AND (c.busy_until IS NULL OR c.busy_until <= UTC_TIMESTAMP(6))
    AND ((c.max_redemptions IS NULL AND v.seat IS NULL) OR v.seat BETWEEN 1 AND c.max_redemptions)
    AND (
        (c.max_per_customer IS NULL AND v.customer_seat IS NULL)
        OR v.customer_seat BETWEEN 1 AND c.max_per_customer
    )
