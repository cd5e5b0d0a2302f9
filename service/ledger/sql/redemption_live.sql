-- The order's live redemption, or its hold whose time is over and which nobody has ended yet. One that is just being recorded or
-- ended is an error at once (NOWAIT): nobody waits here while holding a connection. Only the key is locked; the row itself, which
-- those who end it lock first, would make a circle of it.
SELECT r.id FROM redemption r FORCE INDEX (redemption_live_order)
WHERE r.coupon_id = (SELECT c.id FROM coupon c WHERE c.code = {code}) AND r.live_order_id = {order_id}
LOCK IN SHARE MODE NOWAIT;
