-- What was applied. Not part of the migrations: it is there before the first of them.
CREATE TABLE IF NOT EXISTS schema_migration (
    version INT UNSIGNED NOT NULL,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    checksum CHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    applied_at DATETIME(6) NOT NULL,
    PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
