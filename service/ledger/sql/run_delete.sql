DELETE FROM reconcile_run WHERE id = {id} AND status IN ('done', 'failed');
