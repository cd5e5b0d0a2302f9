-- Which coupons these redemptions belong to. That never changes, so no lock is needed. The tombstone of an id is no redemption.
SELECT r.id, r.coupon_id FROM redemption r FORCE INDEX (PRIMARY) WHERE r.id IN ({ids}) AND NOT {% is_abandoned %};
