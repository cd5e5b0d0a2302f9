-- What these places hold from now on; all of them are there, and locked.
INSERT INTO guess (place, customers, limited_until) VALUES {rows}
ON DUPLICATE KEY UPDATE customers = VALUES(customers), limited_until = VALUES(limited_until)
