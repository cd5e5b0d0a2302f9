-- Ended runs that are older than a moment; ids grow with time, so only older ones are read.
SELECT n.id FROM reconcile_run n
WHERE n.id < {below_id} AND n.status IN ('done', 'failed') AND n.ended_at < {ended_before}
ORDER BY n.id LIMIT {limit};
