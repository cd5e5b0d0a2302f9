SELECT GET_LOCK({name}, {wait_s});
