-- The coupons of a range of ids that can be redeemed now or later, as one JSON array; NULL where there is none. Rows of their
-- own would cost their reader more than all the rest.
SELECT JSON_ARRAYAGG(JSON_ARRAY({% seed_fields %}))
FROM coupon c
WHERE c.id > {after_id} AND c.id <= {last_id}
    AND c.status <> 'archived' AND (c.ends_at IS NULL OR c.ends_at > UTC_TIMESTAMP(6));
