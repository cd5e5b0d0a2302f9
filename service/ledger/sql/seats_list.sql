-- The seats of the first rows of a range by seat.
SELECT GROUP_CONCAT(p.seat)
FROM (
    SELECT s.seat FROM redemption s FORCE INDEX (redemption_seat)
    WHERE s.coupon_id = {coupon_id} AND s.seat BETWEEN {begin} AND {end}
    ORDER BY s.seat LIMIT {rows_max}
) p;
