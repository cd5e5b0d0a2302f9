-- The database and the two accounts that Usher uses in MariaDB. An administrator runs this once, with the two passwords:
--
--   SET @usher_password = '…', @usher_migrate_password = '…';   -- and, unless it is '%': @usher_host = '10.0.0.%'
--   SOURCE accounts.sql;
--
-- Running it again is harmless: it sets the passwords, and takes away whatever else the two accounts were allowed. New
-- connections are refused for some milliseconds meanwhile; a service that is running tries again. `make run`, the tests
-- and the scripts for containers run this same file. A statement has one line: a server's init file wants that.

EXECUTE IMMEDIATE IF(@usher_password > '' AND @usher_migrate_password > '', 'DO 0', 'SIGNAL SQLSTATE ''45000'' SET MESSAGE_TEXT = ''Set @usher_password and @usher_migrate_password first.''');

SET @usher_host = COALESCE(@usher_host, '%');
SET @usher_service = CONCAT('usher@', QUOTE(@usher_host)), @usher_migration = CONCAT('usher_migrate@', QUOTE(@usher_host));

CREATE DATABASE IF NOT EXISTS usher CHARACTER SET utf8mb4;

-- For `usher serve` and `usher coupon`: reads and writes rows. It cannot change the schema, and it cannot delete: what is
-- over stays in the ledger as an ended row, so no defect and no stolen password of the service makes a redemption vanish.
-- Without SUPER and READ_ONLY ADMIN it cannot write to a server that was made read-only for a failover, either.
EXECUTE IMMEDIATE CONCAT('CREATE USER IF NOT EXISTS ', @usher_service, ' IDENTIFIED BY ', QUOTE(@usher_password));
EXECUTE IMMEDIATE CONCAT('ALTER USER ', @usher_service, ' IDENTIFIED BY ', QUOTE(@usher_password));
EXECUTE IMMEDIATE CONCAT('REVOKE ALL PRIVILEGES, GRANT OPTION FROM ', @usher_service);
EXECUTE IMMEDIATE CONCAT('GRANT SELECT, INSERT, UPDATE ON usher.* TO ', @usher_service);

-- For `usher migrate` and `usher key`, run by people and by deployments. Migrations make and change tables, and note what
-- was applied; the lock that lets one of them work at a time (GET_LOCK) needs no right.
EXECUTE IMMEDIATE CONCAT('CREATE USER IF NOT EXISTS ', @usher_migration, ' IDENTIFIED BY ', QUOTE(@usher_migrate_password));
EXECUTE IMMEDIATE CONCAT('ALTER USER ', @usher_migration, ' IDENTIFIED BY ', QUOTE(@usher_migrate_password));
EXECUTE IMMEDIATE CONCAT('REVOKE ALL PRIVILEGES, GRANT OPTION FROM ', @usher_migration);
EXECUTE IMMEDIATE CONCAT('GRANT SELECT, INSERT, UPDATE, CREATE, ALTER, DROP, INDEX ON usher.* TO ', @usher_migration);
