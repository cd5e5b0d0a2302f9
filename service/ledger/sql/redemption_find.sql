-- Redemptions, newest first, out of one or more lists that are each newest first and long enough.
SELECT STRAIGHT_JOIN {% redemption_columns %}
FROM ({branches}) r
JOIN coupon c ON c.id = r.coupon_id
ORDER BY r.id DESC
LIMIT {limit};
