SELECT RELEASE_LOCK({% leader_lock %});
