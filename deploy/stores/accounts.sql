-- The database and the two accounts that Usher uses in MariaDB. An administrator runs this once, with the two passwords:
--
--   SET @usher_password = '…', @usher_migrate_password = '…';   -- and, unless it is '%': @usher_host = '10.0.0.%'
--   SOURCE accounts.sql;
--
-- Running it again sets both passwords, and takes away whatever else the two accounts were allowed. Connections that are open
-- go on. New ones are refused between REVOKE and GRANT, and where a password is a new one, until the process has it:
-- docs/security.md says in which order. An account for another @usher_host stays as it was. `make run`, the tests and the
-- scripts for containers run this same file. A statement has one line: a server's init file wants that.

-- A client may go on after the error, so every statement asks again whether both passwords are there.
SET @usher_ready = COALESCE(@usher_password > '' AND @usher_migrate_password > '', FALSE);
EXECUTE IMMEDIATE IF(@usher_ready, 'DO 0', 'SIGNAL SQLSTATE ''45000'' SET MESSAGE_TEXT = ''Set @usher_password and @usher_migrate_password first.''');

SET @usher_host = COALESCE(@usher_host, '%');
SET @usher_service = CONCAT('usher@', QUOTE(@usher_host)), @usher_migration = CONCAT('usher_migrate@', QUOTE(@usher_host));

EXECUTE IMMEDIATE IF(@usher_ready, 'CREATE DATABASE IF NOT EXISTS usher CHARACTER SET utf8mb4', 'DO 0');

-- For `usher serve`, `usher coupon` and the reconciler: reads and writes rows. It can neither change the schema nor delete a
-- coupon or a redemption: what is over stays in the ledger as an ended row. That keeps rows, not their meaning: with a stolen
-- password of this account redemptions can be cancelled, limits changed and API keys added. Without SUPER and READ_ONLY ADMIN
-- it cannot write to a server that was made read-only for a failover.
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('CREATE USER IF NOT EXISTS ', @usher_service, ' IDENTIFIED BY ', QUOTE(@usher_password)), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('ALTER USER ', @usher_service, ' IDENTIFIED BY ', QUOTE(@usher_password)), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('REVOKE ALL PRIVILEGES, GRANT OPTION FROM ', @usher_service), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('GRANT SELECT, INSERT, UPDATE ON usher.* TO ', @usher_service), 'DO 0');
-- Runs of the reconciler are no redemptions: old ones are deleted, and what they have found with them. Nothing else is. CREATE
-- lets MariaDB grant a right on a table that is not there yet, and is taken away at once.
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('GRANT CREATE, DELETE ON usher.reconcile_run TO ', @usher_service), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('GRANT CREATE, DELETE ON usher.reconcile_finding TO ', @usher_service), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('REVOKE CREATE ON usher.reconcile_run FROM ', @usher_service), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('REVOKE CREATE ON usher.reconcile_finding FROM ', @usher_service), 'DO 0');

-- For `usher migrate` and `usher key`, run by people and by deployments. Migrations make and change tables, and note what
-- was applied; the lock that lets one of them work at a time (GET_LOCK) needs no right.
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('CREATE USER IF NOT EXISTS ', @usher_migration, ' IDENTIFIED BY ', QUOTE(@usher_migrate_password)), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('ALTER USER ', @usher_migration, ' IDENTIFIED BY ', QUOTE(@usher_migrate_password)), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('REVOKE ALL PRIVILEGES, GRANT OPTION FROM ', @usher_migration), 'DO 0');
EXECUTE IMMEDIATE IF(@usher_ready, CONCAT('GRANT SELECT, INSERT, UPDATE, CREATE, ALTER, DROP, INDEX ON usher.* TO ', @usher_migration), 'DO 0');
