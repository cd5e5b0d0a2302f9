-- Several processes note the same key's uses; the latest stays.
UPDATE api_key
SET last_used_at = GREATEST(COALESCE(last_used_at, created_at), CASE id {cases} END)
WHERE id IN ({ids});
