"""The HTTP service: redeems coupons exactly, with seats proposed by Redis and decided by the ledger in MariaDB."""
