-- The coupon is busy for a while, since a large move goes in pieces; or not any more.
UPDATE coupon SET busy_until = {busy_until} WHERE code = {code};
