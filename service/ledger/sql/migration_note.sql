INSERT INTO schema_migration (version, name, checksum, applied_at) VALUES ({version}, {name}, {checksum}, UTC_TIMESTAMP(6));
