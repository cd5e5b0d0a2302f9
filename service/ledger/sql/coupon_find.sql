SELECT {% coupon_columns %} FROM coupon c WHERE {conditions} ORDER BY c.code LIMIT {limit};
