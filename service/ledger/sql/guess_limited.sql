-- The places where somebody is limited now, those for longest first, and the time.
SELECT customers, CAST(UNIX_TIMESTAMP(UTC_TIMESTAMP(6)) * 1000000 AS UNSIGNED)
FROM guess FORCE INDEX (guess_limited_until)
WHERE limited_until > UTC_TIMESTAMP(6)
ORDER BY limited_until DESC
LIMIT {limit}
