-- Of several who take the same wish, one does.
UPDATE reconcile_run SET status = 'running', run_by = {run_by}, begun_at = {begun_at} WHERE id = {id} AND status = 'queued';
