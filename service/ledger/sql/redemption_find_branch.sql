(SELECT * FROM redemption WHERE {conditions} ORDER BY id DESC LIMIT {limit});
