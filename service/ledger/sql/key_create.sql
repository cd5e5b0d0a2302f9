INSERT INTO api_key (name, digest, scopes, created_at, expires_at) VALUES ({name}, {digest}, {scopes}, {now}, {expires_at});
