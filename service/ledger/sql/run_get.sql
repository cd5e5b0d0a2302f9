SELECT {% run_columns %} FROM reconcile_run n WHERE n.id = {id};
