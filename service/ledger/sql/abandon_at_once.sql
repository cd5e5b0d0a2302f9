-- As abandon.sql, but an id that a transaction holds is an error (1205) at once.
SET STATEMENT innodb_lock_wait_timeout = 0 FOR {% abandon %};
