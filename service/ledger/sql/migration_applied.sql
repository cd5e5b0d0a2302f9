SELECT m.version, m.checksum FROM schema_migration m;
