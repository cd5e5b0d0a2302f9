-- The coupons of keys that are to be remembered, locked exclusively: no redemption is recorded with such a key meanwhile.
SELECT c.id, c.status FROM coupon c FORCE INDEX (PRIMARY) WHERE c.id IN ({ids}) ORDER BY c.id FOR UPDATE;
