-- The newest first.
SELECT {% run_columns %} FROM reconcile_run n WHERE {conditions} ORDER BY n.id DESC LIMIT {limit};
