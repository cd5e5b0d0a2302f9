-- What the life of redemptions needs: overdue holds of a coupon, keys that found a redemption, changes of coupons.

-- While this moment is not over, the coupon answers that it is busy: a large move of its redemptions goes in pieces.
ALTER TABLE coupon ADD COLUMN IF NOT EXISTS busy_until DATETIME(6) NULL, ALGORITHM = INSTANT, LOCK = NONE;

-- Overdue holds of one coupon are found, and left out of its usage, by this key alone. The one by status stays: it has the newest
-- redemptions of a status first.
ALTER TABLE redemption
    ADD KEY IF NOT EXISTS redemption_coupon_expiry (coupon_id, status, expires_at),
    ALGORITHM = INPLACE, LOCK = NONE;

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
