"""Reads the ledger after a scenario and compares it with what the clients were told. Knows nothing of how Usher works."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.driver import Answer, Client, tally
from tests.stores import Admin

Row = dict[str, Any]

LIVE = ("reserved", "confirmed")
ROUND_MAX = 500
"""Requests that `fill` sends at once."""
MORE_THAN_MISSING = 5
FILL_TIMEOUT_S = 60.0
"""A claim that a crash left behind counts as absent after the request's deadline and two seconds more."""
FILL_PAUSE_S = 0.1


class Auditor:
    """What the ledger says of a coupon, and whether that is in order."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def reconnect(self) -> None:
        """After a restart of MariaDB."""
        self._admin.reconnect()

    def coupon(self, code: str) -> Row:
        """The coupon's row."""
        (row,) = self._admin.run("SELECT * FROM coupon WHERE code = %s", code)
        return row

    def rows(self, code: str) -> list[Row]:
        """All redemptions of a coupon, the ended ones too; `id` as the API writes it."""
        found = self._admin.run(
            "SELECT r.* FROM redemption r JOIN coupon c ON c.id = r.coupon_id WHERE c.code = %s",
            code,
        )
        return [{**row, "id": str(uuid.UUID(bytes=row["id"]))} for row in found]

    def live(self, code: str) -> list[Row]:
        """The redemptions that count."""
        return [row for row in self.rows(code) if row["status"] in LIVE]

    def check(self, code: str, answers: Iterable[Answer | None] = ()) -> list[Row]:
        """Whether nothing was sold too often and nothing that was promised is missing; returns the live redemptions.

        `answers`: what clients were told about this coupon, None where they were told nothing.
        """
        rows = self.rows(code)
        live = [row for row in rows if row["status"] in LIVE]
        self._check_limits(code, live)
        told = [answer for answer in answers if answer is not None]
        self._check_promises({row["id"]: row for row in rows}, told)
        assert [] == [answer for answer in told if answer.status == 500], f"a defect met a client of {code}"
        return live

    def _check_limits(self, code: str, live: list[Row]) -> None:
        coupon = self.coupon(code)
        limit, per_customer = coupon["max_redemptions"], coupon["max_per_customer"]
        if limit is not None:
            assert len(live) <= limit, f"oversold: {len(live)} live redemptions of {limit}"
            seats = sorted(row["seat"] for row in live)
            assert len(seats) == len(set(seats)), "two on one seat"
            assert [] == [seat for seat in seats if not 1 <= seat <= limit]
        if per_customer is not None:
            counts = Counter(row["customer_id"] for row in live)
            assert {} == {customer: count for customer, count in counts.items() if count > per_customer}
        assert [] == [order for order, count in Counter(row["order_id"] for row in live).items() if count > 1]

    @staticmethod
    def _check_promises(rows: dict[str, Row], told: list[Answer]) -> None:
        """Every 201 is a live row, the one that was asked for, and no row was promised to two."""
        made = [answer.body for answer in told if answer.status == 201]
        assert [] == [made_twice for made_twice, count in Counter(body["id"] for body in made).items() if count > 1]
        for body in [answer.body for answer in told if answer.status in (200, 201)]:
            row = rows.get(body["id"])
            assert row is not None, f"promised and not in the ledger: {body}"
            assert (body["customer_id"], body["order_id"]) == (row["customer_id"], row["order_id"])
            assert row["status"] in LIVE

    async def fill(self, client: Client, code: str) -> list[Row]:
        """Redeems with new customers until the limit is reached, which must succeed; then nobody else is let in.

        Returns the live redemptions.
        """
        limit = self.coupon(code)["max_redemptions"]
        end = time.monotonic() + FILL_TIMEOUT_S
        number = 0
        while (missing := limit - len(self.check(code))) > 0:
            assert time.monotonic() < end, f"{missing} of {limit} uses cannot be had any more"
            count = min(missing, ROUND_MAX) + MORE_THAN_MISSING
            answers = await client.redeem_all(code, [(f"filler-{n}", f"filling-{n}") for n in range(number, number + count)])
            number += count
            self.check(code, answers)
            if any(answer.status != 201 for answer in answers):
                await asyncio.sleep(FILL_PAUSE_S)
        late = await client.redeem_all(code, [(f"latecomer-{n}", f"late-{n}") for n in range(10)])
        assert {"409 coupon_exhausted": 10} == tally(late)
        return self.check(code, late)
