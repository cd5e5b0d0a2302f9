-- Writes ids as ended, on no seat, so that no statement with them can land any more. An id that is there stays as it is;
-- on one that a transaction still holds, it waits for that transaction's end.
INSERT INTO redemption (
    id, coupon_id, customer_id, order_id, status, api_key_id, created_at, ended_at, end_reason
)
VALUES {rows}
ON DUPLICATE KEY UPDATE id = redemption.id;
