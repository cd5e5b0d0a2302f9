-- One that has ended stays as it has ended.
UPDATE reconcile_run
SET
    status = {status},
    ended_at = {ended_at},
    coupons_checked = {coupons_checked},
    finding_count = {finding_count},
    error = {error}
WHERE id = {id} AND status = 'running';
