-- The coupon, locked exclusively: waits for the record statements that have it in share mode, and keeps later ones out.
SELECT {% coupon_columns %}, COALESCE(c.busy_until > UTC_TIMESTAMP(6), 0) AS is_busy
FROM coupon c
WHERE c.code = {code}
FOR UPDATE;
