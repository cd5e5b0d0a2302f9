-- The highest seat. Not MAX(): only this form stops after one row wherever it stands.
SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
WHERE s.coupon_id = {coupon_id} AND s.seat IS NOT NULL
ORDER BY s.seat DESC LIMIT 1;
