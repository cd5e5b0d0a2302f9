-- A key that was revoked stays so, whenever it expires.
UPDATE api_key SET expires_at = {expires_at} WHERE name = {name} AND revoked_at IS NULL;
