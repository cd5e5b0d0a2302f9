SELECT {% key_columns %} FROM api_key k ORDER BY k.id;
