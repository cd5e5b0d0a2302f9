-- What life without Redis and the reconciler need: cursors of seats, stored runs with what they found, and who leads.

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
