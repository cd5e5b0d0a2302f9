-- The lock of whoever leads, of this database: locks are the whole server's. Their names have 64 characters at most.
CONCAT(LEFT(DATABASE(), 51), ':usher_leader')
