INSERT INTO coupon (
    code, max_redemptions, max_per_customer, starts_at, ends_at, status, metadata, version, created_at, updated_at
)
VALUES (
    {code}, {max_redemptions}, {max_per_customer}, {starts_at}, {ends_at}, {status}, {metadata}, 1, {now}, {now}
);
