-- The key expires at this time at the latest.
UPDATE api_key SET expires_at = LEAST(COALESCE(expires_at, {expires_at}), {expires_at}) WHERE name = {name};
