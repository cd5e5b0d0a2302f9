SELECT {% key_columns %} FROM api_key k WHERE k.name = {name};
