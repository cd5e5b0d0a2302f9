-- The ledger's schema as the migrations leave it. For readers: nothing runs this file, and a test holds the two together.

-- What was applied. Not part of the migrations: it is there before the first of them.
CREATE TABLE IF NOT EXISTS schema_migration (
    version INT UNSIGNED NOT NULL,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    checksum CHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    applied_at DATETIME(6) NOT NULL,
    PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS coupon (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    code VARCHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    -- NULL: unlimited. Which of the two is fixed when the coupon is created.
    max_redemptions INT UNSIGNED NULL,
    max_per_customer SMALLINT UNSIGNED NULL,
    -- Open on the side that is NULL; starts_at is within, ends_at is not.
    starts_at DATETIME(6) NULL,
    ends_at DATETIME(6) NULL,
    status ENUM('active', 'paused', 'archived') CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    metadata JSON NOT NULL,
    -- Rises with every change; counters that carry another one are loaded anew.
    version INT UNSIGNED NOT NULL,
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY coupon_code (code),
    CONSTRAINT coupon_code_form CHECK (code REGEXP '^[A-Z0-9][A-Z0-9_-]{0,63}$'),
    CONSTRAINT coupon_max_redemptions CHECK (max_redemptions BETWEEN 1 AND 2000000000),
    CONSTRAINT coupon_max_per_customer CHECK (max_per_customer BETWEEN 1 AND 1000),
    CONSTRAINT coupon_window CHECK (ends_at > starts_at),
    CONSTRAINT coupon_metadata CHECK (JSON_TYPE(metadata) = 'OBJECT'),
    CONSTRAINT coupon_version CHECK (version >= 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

-- No foreign keys: they would lock the coupon once more, and the statement that inserts joins it anyway.
CREATE TABLE IF NOT EXISTS redemption (
    -- A UUIDv7 made by the service: inserts append, and ids descend from the newest.
    id BINARY(16) NOT NULL,
    coupon_id BIGINT UNSIGNED NOT NULL,
    -- Binary and no-pad: `a`, `A` and `a ` are three customers.
    customer_id VARCHAR(128) NOT NULL,
    order_id VARCHAR(128) NOT NULL,
    status ENUM('reserved', 'confirmed', 'cancelled', 'expired') CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    -- NULL where the coupon does not limit, and in ended rows: a seat is free for the next at once.
    seat INT UNSIGNED NULL,
    customer_seat SMALLINT UNSIGNED NULL,
    -- The order's name while the row is live, so that a key can hold it to one live row per coupon and order.
    live_order_id VARCHAR(128) NULL,
    was_seat INT UNSIGNED NULL,
    api_key_id INT UNSIGNED NOT NULL,
    idempotency_key VARCHAR(255) CHARACTER SET ascii COLLATE ascii_nopad_bin NULL,
    expires_at DATETIME(6) NULL,
    created_at DATETIME(6) NOT NULL,
    confirmed_at DATETIME(6) NULL,
    ended_at DATETIME(6) NULL,
    end_reason VARCHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NULL,
    -- The coupon is part of the key so that the table can be split by coupon.
    PRIMARY KEY (id, coupon_id),
    UNIQUE KEY redemption_seat (coupon_id, seat),
    -- The customer first: the key serves reads by customer, too.
    UNIQUE KEY redemption_customer_seat (customer_id, coupon_id, customer_seat),
    UNIQUE KEY redemption_live_order (coupon_id, live_order_id),
    UNIQUE KEY redemption_idempotency_key (coupon_id, api_key_id, idempotency_key),
    KEY redemption_order (order_id),
    KEY redemption_coupon_status (coupon_id, status),
    KEY redemption_expiry (status, expires_at),
    CONSTRAINT redemption_seat_from_1 CHECK (seat >= 1),
    CONSTRAINT redemption_customer_seat_from_1 CHECK (customer_seat >= 1),
    CONSTRAINT redemption_live CHECK ((status IN ('reserved', 'confirmed')) = (live_order_id IS NOT NULL)),
    CONSTRAINT redemption_live_order_is_order CHECK (live_order_id = order_id),
    CONSTRAINT redemption_ended_sits_nowhere CHECK (
        status IN ('reserved', 'confirmed') OR (seat IS NULL AND customer_seat IS NULL)
    ),
    CONSTRAINT redemption_ended_at CHECK ((status IN ('cancelled', 'expired')) = (ended_at IS NOT NULL)),
    CONSTRAINT redemption_hold_expires CHECK (status NOT IN ('reserved', 'expired') OR expires_at IS NOT NULL),
    CONSTRAINT redemption_confirmed_at CHECK (status <> 'confirmed' OR confirmed_at IS NOT NULL)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS api_key (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT,
    name VARCHAR(64) NOT NULL,
    -- SHA-256 of the key; the key itself is nowhere.
    digest BINARY(32) NOT NULL,
    scopes SET('redeem', 'read', 'admin') CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    created_at DATETIME(6) NOT NULL,
    expires_at DATETIME(6) NULL,
    revoked_at DATETIME(6) NULL,
    last_used_at DATETIME(6) NULL,
    PRIMARY KEY (id),
    UNIQUE KEY api_key_name (name),
    UNIQUE KEY api_key_digest (digest)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

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
