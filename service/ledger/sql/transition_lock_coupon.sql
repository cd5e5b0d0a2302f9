-- One coupon, locked exclusively: nothing is recorded or ended on it meanwhile.
SELECT c.id, c.code, c.max_redemptions, c.status
FROM coupon c FORCE INDEX (PRIMARY)
WHERE c.id = {id}
FOR UPDATE;
