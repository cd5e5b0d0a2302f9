-- Locks these places, by ascending number, and says what is there; one that was never used is made. The time is that of the
-- moment at which a place was locked, and not of the statement, which may have waited: so the namings of a place are in order.
INSERT INTO guess (place, customers) VALUES {rows}
ON DUPLICATE KEY UPDATE place = guess.place
RETURNING place, customers, CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED)
