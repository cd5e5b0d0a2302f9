-- The coupons of the newest redemptions, those first that have most of them. Ids descend from the newest: a range of the key.
SELECT GROUP_CONCAT(u.coupon_id ORDER BY u.uses DESC)
FROM (
    SELECT n.coupon_id, COUNT(*) AS uses
    FROM (SELECT r.coupon_id FROM redemption r FORCE INDEX (PRIMARY) ORDER BY r.id DESC LIMIT {limit}) n
    GROUP BY n.coupon_id
) u;
