-- The tombstone of an id is no redemption.
SELECT {% redemption_columns %}
FROM redemption r FORCE INDEX (PRIMARY)
JOIN coupon c ON c.id = r.coupon_id
WHERE r.id = {id} AND NOT {% is_abandoned %};
