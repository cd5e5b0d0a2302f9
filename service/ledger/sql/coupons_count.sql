SELECT COUNT(*) FROM coupon c;
