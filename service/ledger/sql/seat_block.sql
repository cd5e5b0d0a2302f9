-- Moves a coupon's cursor by a block of seats, to above all that are in a row: a cursor left behind would hand out taken seats.
-- It stops one block above the limit, so that those who ask on and on do not move it for ever.
-- The server gives the value of LAST_INSERT_ID(…) back with its reply, here the cursor's new place, for an insert and an update alike.
INSERT INTO seat_cursor (coupon_id, next)
VALUES ({coupon_id}, LAST_INSERT_ID({seat_max} + {size}))
ON DUPLICATE KEY UPDATE next = LAST_INSERT_ID(LEAST(GREATEST(next, {seat_max}), {limit}) + {size});
