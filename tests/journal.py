"""Writes down, within the ledger, in which order redemptions were admitted and ended and limits were changed.

Triggers note each step in the transaction that makes it, under a number of a sequence. The numbers are not the order of the
commits, but where the order matters there is a lock: a change of limits has the coupon's row to itself, so what it is held
against has been committed before it or begins after it; and a seat, also a customer's, that an ended redemption has left is
taken after that was committed. So whoever was admitted had, at that place in the journal, to be below the limits of that place.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.stores import Admin

MAKE = (
    "CREATE SEQUENCE journal_number",
    """
    CREATE TABLE journal (
        number BIGINT NOT NULL PRIMARY KEY,
        coupon_id BIGINT UNSIGNED NOT NULL,
        what VARCHAR(16) NOT NULL,
        redemption_id BINARY(16) NULL,
        customer_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
        max_redemptions INT UNSIGNED NULL,
        max_per_customer SMALLINT UNSIGNED NULL
    ) ENGINE = InnoDB
    """,
    """
    CREATE TRIGGER journal_admitted AFTER INSERT ON redemption FOR EACH ROW
    IF NEW.live_order_id IS NOT NULL THEN
        INSERT INTO journal VALUES (NEXTVAL(journal_number), NEW.coupon_id, 'admitted', NEW.id, NEW.customer_id, NULL, NULL);
    END IF
    """,
    """
    CREATE TRIGGER journal_ended AFTER UPDATE ON redemption FOR EACH ROW
    IF OLD.live_order_id IS NOT NULL AND NEW.live_order_id IS NULL THEN
        INSERT INTO journal VALUES (NEXTVAL(journal_number), NEW.coupon_id, 'ended', NEW.id, NEW.customer_id, NULL, NULL);
    END IF
    """,
    """
    CREATE TRIGGER journal_created AFTER INSERT ON coupon FOR EACH ROW
    INSERT INTO journal
    VALUES (NEXTVAL(journal_number), NEW.id, 'limited', NULL, NULL, NEW.max_redemptions, NEW.max_per_customer)
    """,
    """
    CREATE TRIGGER journal_changed AFTER UPDATE ON coupon FOR EACH ROW
    INSERT INTO journal
    VALUES (NEXTVAL(journal_number), NEW.id, 'limited', NULL, NULL, NEW.max_redemptions, NEW.max_per_customer)
    """,
)
TRIGGERS = ("journal_admitted", "journal_ended", "journal_created", "journal_changed")


class Journal:
    """What has been written down of coupons that were created since the journal was begun."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def check(self, code: str) -> "Counter[str]":
        """Fails if anybody was admitted at or above a limit that was in force; how much of what has happened."""
        live: set[bytes] = set()
        customers: Counter[str] = Counter()
        happened: Counter[str] = Counter()
        limit = per_customer = float("inf")
        entries = self._admin.run(
            "SELECT j.* FROM journal j JOIN coupon c ON c.id = j.coupon_id WHERE c.code = %s ORDER BY j.number", code
        )
        for entry in entries:
            happened[entry["what"]] += 1
            if entry["what"] == "limited":
                limit = float("inf") if entry["max_redemptions"] is None else entry["max_redemptions"]
                per_customer = float("inf") if entry["max_per_customer"] is None else entry["max_per_customer"]
            elif entry["what"] == "ended":
                live.remove(entry["redemption_id"])
                customers[entry["customer_id"]] -= 1
            else:
                at = f"entry {entry['number']} of {code}"
                assert len(live) < limit, f"admitted with {len(live)} live of {limit}: {at}"
                assert customers[entry["customer_id"]] < per_customer, f"a customer got one above {per_customer}: {at}"
                live.add(entry["redemption_id"])
                customers[entry["customer_id"]] += 1
        return happened


@contextmanager
def journal(admin: Admin) -> Iterator[Journal]:
    """A journal of all that happens within the `with`."""
    try:
        for statement in MAKE:
            admin.run(statement)
        yield Journal(admin)
    finally:
        for trigger in TRIGGERS:
            admin.run(f"DROP TRIGGER IF EXISTS {trigger}")
        admin.run("DROP TABLE IF EXISTS journal")
        admin.run("DROP SEQUENCE IF EXISTS journal_number")
