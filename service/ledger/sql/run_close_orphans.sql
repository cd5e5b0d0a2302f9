-- What reconcilers were doing before this one took over: whoever did it does not lead any more. Runs of the command line are
-- carried out by no reconciler; one that runs for so long has been killed.
UPDATE reconcile_run
SET status = 'failed', ended_at = {ended_at}, error = {error}
WHERE
    status = 'running'
    AND (
        (run_by IS NOT NULL AND (run_by <> {name} OR begun_at < {since}))
        OR (run_by IS NULL AND begun_at < {commands_since})
    );
