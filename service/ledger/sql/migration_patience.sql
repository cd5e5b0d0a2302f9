-- A change of a table waits until nobody uses it, and all who come later wait behind the change: so it gives up soon.
SET SESSION lock_wait_timeout = {wait_s};
