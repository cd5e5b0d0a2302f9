SELECT k.digest, {% key_columns %} FROM api_key k WHERE k.digest IN ({digests});
