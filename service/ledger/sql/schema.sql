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
    -- While this moment is not over, the coupon answers that it is busy: a large move of its redemptions goes in pieces.
    busy_until DATETIME(6) NULL,
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
    -- It has the newest redemptions of a status first.
    KEY redemption_coupon_status (coupon_id, status),
    KEY redemption_expiry (status, expires_at),
    -- Overdue holds of one coupon are found, and left out of its usage, by this key alone.
    KEY redemption_coupon_expiry (coupon_id, status, expires_at),
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

-- Idempotency keys that found a redemption which another request had made; those that made one are in its row.
CREATE TABLE IF NOT EXISTS found_key (
    coupon_id BIGINT UNSIGNED NOT NULL,
    api_key_id INT UNSIGNED NOT NULL,
    idempotency_key VARCHAR(255) CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    redemption_id BINARY(16) NOT NULL,
    PRIMARY KEY (coupon_id, api_key_id, idempotency_key)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

-- Every version of a coupon: who made it, when, and what it was before and after.
CREATE TABLE IF NOT EXISTS coupon_history (
    coupon_id BIGINT UNSIGNED NOT NULL,
    version INT UNSIGNED NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    -- The key's name, or the command line's user.
    changed_by VARCHAR(128) NOT NULL,
    -- All that can change of a coupon; before the first version there was nothing.
    before_change JSON NULL,
    after_change JSON NOT NULL,
    PRIMARY KEY (coupon_id, version)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

-- Up to which seat a coupon's seats have been handed out in blocks, while Redis was away. A hint: the seats' unique key decides.
CREATE TABLE IF NOT EXISTS seat_cursor (
    coupon_id BIGINT UNSIGNED NOT NULL,
    next INT UNSIGNED NOT NULL,
    PRIMARY KEY (coupon_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

-- A run of the reconciler; queued, it is a wish that the leader has not fulfilled yet. Old ones are deleted.
CREATE TABLE IF NOT EXISTS reconcile_run (
    -- A UUIDv7: ids descend from the newest.
    id BINARY(16) NOT NULL,
    mode ENUM('check', 'repair', 'reseed') CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    -- NULL: all coupons.
    code VARCHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NULL,
    status ENUM('queued', 'running', 'done', 'failed') CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    -- Why: somebody asked by the API or at the command line, the schedule, or Redis had lost its keys.
    cause ENUM('asked', 'schedule', 'cache_loss') CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    -- The key's name, or the command line's user and host; the reconciler's for its own runs.
    asked_by VARCHAR(128) NOT NULL,
    asked_at DATETIME(6) NOT NULL,
    -- The reconciler that carries it out.
    run_by VARCHAR(128) NULL,
    begun_at DATETIME(6) NULL,
    ended_at DATETIME(6) NULL,
    coupons_checked INT UNSIGNED NOT NULL,
    finding_count INT UNSIGNED NOT NULL,
    -- Why it failed, without a password.
    error VARCHAR(255) NULL,
    PRIMARY KEY (id),
    KEY reconcile_run_status (status, id),
    CONSTRAINT reconcile_run_begun CHECK ((status = 'queued') = (begun_at IS NULL)),
    CONSTRAINT reconcile_run_ended CHECK ((status IN ('done', 'failed')) = (ended_at IS NOT NULL))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

-- What a run has found, in its order.
CREATE TABLE IF NOT EXISTS reconcile_finding (
    run_id BINARY(16) NOT NULL,
    number INT UNSIGNED NOT NULL,
    code VARCHAR(64) CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    kind ENUM('missing', 'outdated', 'leaked', 'ghost', 'behind', 'customer_count', 'oversold')
        CHARACTER SET ascii COLLATE ascii_nopad_bin NOT NULL,
    seat INT UNSIGNED NULL,
    customer_id VARCHAR(128) NULL,
    -- What the counter said, and what the ledger says.
    before_repair JSON NULL,
    after_repair JSON NULL,
    PRIMARY KEY (run_id, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;

-- Which reconciler leads; one row. That it still does is the server's word: the session holds the lock.
CREATE TABLE IF NOT EXISTS leader (
    id TINYINT UNSIGNED NOT NULL,
    name VARCHAR(128) NOT NULL,
    session_id BIGINT UNSIGNED NOT NULL,
    since DATETIME(6) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT leader_one CHECK (id = 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
