-- Whether this session has the lock, by the server's word.
SELECT IS_USED_LOCK({% leader_lock %}) <=> CONNECTION_ID();
