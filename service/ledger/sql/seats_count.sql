-- The first rows of a range by seat: how many, and the last one's seat. The seat's key alone is read.
SELECT COUNT(*), MAX(p.seat)
FROM (
    SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
    WHERE s.coupon_id = {coupon_id} AND s.seat BETWEEN {begin} AND {end}
    ORDER BY s.seat LIMIT {rows_max}
) p;
