-- Who leads, since when: only while the session that has noted it holds the lock.
SELECT l.name, l.since FROM leader l WHERE l.id = 1 AND l.session_id = IS_USED_LOCK({% leader_lock %});
