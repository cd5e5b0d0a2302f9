-- The last of the next coupons by id; NULL where there is no further one. Asked by itself: with its answer as a value, the server
-- reads the page as a range and not to the end of the table.
SELECT MAX(i.id) FROM (SELECT c.id FROM coupon c WHERE c.id > {after_id} ORDER BY c.id LIMIT {limit}) i;
