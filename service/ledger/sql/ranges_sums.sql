-- The first rows of these ranges by coupon and seat, summed up for every {size} seats: how many, and the sums of their offsets
-- within those seats and of the offsets' checksums. The seat's key alone is read.
SELECT
    p.coupon_id,
    (p.seat - 1) DIV {size} AS range_number,
    MAX(p.seat),
    COUNT(*),
    CAST(SUM((p.seat - 1) % {size}) AS UNSIGNED),
    CAST(SUM(CRC32((p.seat - 1) % {size})) AS UNSIGNED)
FROM (
    SELECT s.coupon_id, s.seat FROM redemption s FORCE INDEX (redemption_seat)
    WHERE {ranges}
    ORDER BY s.coupon_id, s.seat LIMIT {rows_max}
) p
GROUP BY p.coupon_id, range_number;
