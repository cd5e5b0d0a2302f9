-- What a Redemption is made of, in its order.
r.id, r.coupon_id, c.code, r.customer_id, r.order_id, r.status, r.seat, r.expires_at, r.created_at, r.confirmed_at,
r.ended_at, r.end_reason
