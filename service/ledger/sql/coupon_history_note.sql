INSERT INTO coupon_history (coupon_id, version, changed_at, changed_by, before_change, after_change)
VALUES ({coupon_id}, {version}, {changed_at}, {changed_by}, {before}, {after});
