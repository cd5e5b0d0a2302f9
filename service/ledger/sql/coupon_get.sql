SELECT {% coupon_columns %} FROM coupon c WHERE c.code = {code};
