coupon_id = (SELECT id FROM coupon WHERE code = {code})
