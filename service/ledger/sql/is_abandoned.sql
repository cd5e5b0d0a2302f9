-- Whether the row r is the tombstone of an id. A cancelled redemption may carry the same reason by its caller's choice, but
-- it was confirmed once, or a hold that would have expired.
(r.end_reason <=> 'abandoned' AND r.confirmed_at IS NULL AND r.expires_at IS NULL)
