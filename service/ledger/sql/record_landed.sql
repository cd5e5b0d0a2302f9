-- Which of these ids are there, and which of them only as a tombstone.
SELECT r.id, {% is_abandoned %} FROM redemption r FORCE INDEX (PRIMARY) WHERE r.id IN ({ids});
