-- What a Coupon is made of, in its order.
c.id, c.code, c.max_redemptions, c.max_per_customer, c.starts_at, c.ends_at, c.status, c.metadata, c.version, c.created_at,
c.updated_at
