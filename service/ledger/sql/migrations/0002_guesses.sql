-- Guesses at codes: who has named codes that there are not. Each statement can be repeated.

CREATE TABLE IF NOT EXISTS guess (
    -- The first 16 bits of the customers' digests: the table cannot grow beyond 65,536 rows, and nothing has to be deleted.
    place SMALLINT UNSIGNED NOT NULL,
    -- Up to four customers with their latest namings, when the row was last written; see service/ledger/guesses.py. A fifth takes
    -- the room of whoever has the fewest.
    customers VARBINARY(1348) NOT NULL,
    -- When the last of them may name codes again; NULL: all of them may.
    limited_until DATETIME(6) NULL,
    PRIMARY KEY (place),
    KEY guess_limited_until (limited_until)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
