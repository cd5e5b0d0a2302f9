-- What an ApiKey is made of, in its order.
k.id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
