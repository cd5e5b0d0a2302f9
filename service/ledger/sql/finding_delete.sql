DELETE FROM reconcile_finding WHERE run_id = {run_id} ORDER BY number LIMIT {limit};
