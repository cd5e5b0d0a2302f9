-- The newest first: as a rule it is the one.
SELECT n.ended_at FROM reconcile_run n
WHERE n.code IS NULL AND n.mode IN ('check', 'repair') AND n.status = 'done' AND NOT EXISTS (
    SELECT 1 FROM reconcile_finding f WHERE f.run_id = n.id AND f.kind <> 'missing'
)
ORDER BY n.id DESC LIMIT 1;
