-- The coupon, locked exclusively: waits for the record statements that have it in share mode, and keeps later ones out.
SELECT {% coupon_columns %} FROM coupon c WHERE c.code = {code} FOR UPDATE;
