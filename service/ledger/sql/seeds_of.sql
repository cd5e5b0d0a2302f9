-- These coupons, whatever their status, as one JSON array; NULL where there is none of them.
SELECT JSON_ARRAYAGG(JSON_ARRAY({% seed_fields %}))
FROM coupon c
WHERE c.id IN ({ids});
