(SELECT * FROM redemption FORCE INDEX ({index}) WHERE {conditions} ORDER BY id DESC LIMIT {limit});
