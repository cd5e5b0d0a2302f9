-- What a Run is made of, in its order.
n.id, n.mode, n.code, n.status, n.cause, n.asked_by, n.asked_at, n.run_by, n.begun_at, n.ended_at, n.coupons_checked,
n.finding_count, n.error
