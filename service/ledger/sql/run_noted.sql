-- How far a run is.
UPDATE reconcile_run SET finding_count = GREATEST(finding_count, {finding_count}) WHERE id = {id} AND status = 'running';
