-- Wishes that nobody has begun to fulfil, the oldest first.
SELECT {% run_columns %} FROM reconcile_run n FORCE INDEX (reconcile_run_status)
WHERE n.status = 'queued'
ORDER BY n.id LIMIT {limit};
