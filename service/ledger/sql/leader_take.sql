-- 1: this session has the lock until it ends or gives it back. 0: another one has it. It is not waited for.
SELECT GET_LOCK({% leader_lock %}, 0);
