-- What a run has found, in its order.
SELECT f.code, f.kind, f.before_repair, f.after_repair, f.seat, f.customer_id
FROM reconcile_finding f
WHERE f.run_id = {run_id} AND f.number > {after_number}
ORDER BY f.number LIMIT {limit};
