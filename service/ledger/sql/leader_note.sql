-- Who leads from now on. Whether it still does is another question: the session has the lock, or not.
INSERT INTO leader (id, name, session_id, since) VALUES (1, {name}, CONNECTION_ID(), UTC_TIMESTAMP(6))
ON DUPLICATE KEY UPDATE name = VALUES(name), session_id = VALUES(session_id), since = VALUES(since)
