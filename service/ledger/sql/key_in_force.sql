-- The key, locked, if it is in force.
SELECT k.id FROM api_key k
WHERE k.name = {name} AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > {now})
FOR UPDATE;
