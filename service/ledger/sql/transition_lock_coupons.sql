-- Coupons whose redemptions change status, locked in share mode in the order of their ids. A coupon that is being
-- changed is left out, instead of stopping all the others. Reading `status` makes it the row that is locked: a locking read that
-- a secondary index can answer locks nothing that matters.
SELECT c.id, c.code, c.max_redemptions, c.status
FROM coupon c FORCE INDEX (PRIMARY)
WHERE c.id IN ({ids})
ORDER BY c.id
LOCK IN SHARE MODE SKIP LOCKED;
