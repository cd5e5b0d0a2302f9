UPDATE coupon
SET
    max_redemptions = {max_redemptions},
    max_per_customer = {max_per_customer},
    starts_at = {starts_at},
    ends_at = {ends_at},
    status = {status},
    metadata = {metadata},
    version = {version},
    updated_at = {updated_at},
    busy_until = NULL
WHERE id = {id};
