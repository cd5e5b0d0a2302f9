(SELECT * FROM redemption r FORCE INDEX ({index})
WHERE {conditions} AND NOT {% is_abandoned %}
ORDER BY id DESC LIMIT {limit});
