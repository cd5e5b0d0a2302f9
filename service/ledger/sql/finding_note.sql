-- What is there already stays, so that a batch can be sent again.
INSERT INTO reconcile_finding (run_id, number, code, kind, seat, customer_id, before_repair, after_repair) VALUES {rows}
ON DUPLICATE KEY UPDATE number = reconcile_finding.number;
