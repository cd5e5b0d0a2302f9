-- The same row again, after a reply that was lost, changes nothing.
INSERT INTO reconcile_run (
    id, mode, code, status, cause, asked_by, asked_at, run_by, begun_at, coupons_checked, finding_count
)
VALUES (
    {id}, {mode}, {code}, {status}, {cause}, {asked_by}, {asked_at}, {run_by}, {begun_at}, 0, 0
)
ON DUPLICATE KEY UPDATE id = reconcile_run.id;
