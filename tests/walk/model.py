"""The contract in small: how each call is answered after all calls before it. Knows neither the service nor its stores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

Json = Any
"""Whatever a JSON document says."""

LIVE = ("reserved", "confirmed")


class Near(NamedTuple):
    """A time that only the service knows exactly: so many seconds after the moment of the call."""

    after_s: int = 0


class Expected(NamedTuple):
    """An answer as it must be.

    `redemption`: the one in the body. `fields`: members that the body must have, besides.
    """

    status: int
    code: str = ""
    redemption: "Redemption | None" = None
    replayed: bool = False
    fields: Mapping[str, Json] = {}


@dataclass(eq=False)
class Redemption:
    """A redemption as the last answer showed it, without its seat. A `Near` is replaced by what the next answer says."""

    coupon: "Coupon"
    view: dict[str, Json]

    @property
    def status(self) -> str:
        return str(self.view["status"])

    @property
    def is_live(self) -> bool:
        return self.status in LIVE

    @property
    def has_seat(self) -> bool:
        return self.is_live and self.coupon.fields["max_redemptions"] is not None

    # --- What callers do -----------------------------------------------------------------------------------------

    def confirm(self) -> Expected:
        if self.status == "reserved":
            self.view |= {"status": "confirmed", "confirmed_at": Near(), "expires_at": None}
        return self._refused_as_ended() or Expected(200, redemption=self)

    def extend(self, hold_s: int) -> Expected:
        if self.status == "confirmed":
            return Expected(409, "already_confirmed")
        if self.status == "reserved":
            self.view["expires_at"] = Near(hold_s)
        return self._refused_as_ended() or Expected(200, redemption=self)

    def cancel(self, reason: str | None) -> Expected:
        if self.is_live:
            self.view |= {"status": "cancelled", "ended_at": Near(), "end_reason": reason}
        return Expected(200, redemption=self)

    def _refused_as_ended(self) -> Expected | None:
        refusals = {"cancelled": "already_cancelled", "expired": "reservation_expired"}
        return Expected(409, refusals[self.status]) if self.status in refusals else None

    # --- What time does ------------------------------------------------------------------------------------------

    def expire(self, at: str) -> None:
        """The time of this hold was over at that moment."""
        self.view |= {"status": "expired", "expires_at": at, "ended_at": at}


@dataclass(eq=False)
class Coupon:
    """A coupon with all that ever became of it.

    `fields`: what can be changed, as the contract names it; `history`: what they were in each version, as it is written.
    `keys`: what was made or found with them, by API key and idempotency key.
    """

    code: str
    fields: dict[str, Json]
    version: int = 1
    redemptions: list[Redemption] = field(default_factory=list)
    keys: dict[tuple[str, str], Redemption] = field(default_factory=dict)
    history: list[dict[str, Json]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history.append(self._written())

    @property
    def free(self) -> int:
        """Uses that nobody has; a large number where there is no limit."""
        return (self.fields["max_redemptions"] or UNLIMITED) - len(self.live())

    def live(self) -> list[Redemption]:
        return [one for one in self.redemptions if one.is_live]

    def live_of_order(self, order_id: str) -> Redemption | None:
        return next((one for one in self.live() if one.view["order_id"] == order_id), None)

    # --- Redeeming -----------------------------------------------------------------------------------------------

    def redeem(self, customer_id: str, order_id: str, *, key: tuple[str, str] | None, hold_s: int | None) -> Expected:
        """A use by this customer for this order; the 201 holds a redemption whose id is not known yet."""
        if key is not None and key in self.keys:
            known = self.keys[key].view
            if (known["customer_id"], known["order_id"]) != (customer_id, order_id):
                return Expected(422, "idempotency_key_reused")
            return Expected(200, redemption=self.keys[key], replayed=True)
        found = self.live_of_order(order_id)
        if found is not None and found.view["customer_id"] != customer_id:
            return Expected(422, "order_mismatch")
        if found is None:
            refusal = self.refusal(customer_id)
            if refusal is not None:
                return refusal
        redemption = found or self._admit(customer_id, order_id, hold_s)
        if key is not None:
            self.keys[key] = redemption
        return Expected(201 if found is None else 200, redemption=redemption, replayed=found is not None)

    def refusal(self, customer_id: str | None) -> Expected | None:
        """Why nobody, or this customer, may redeem; the first reason counts."""
        now = datetime.now(UTC)
        of_customer = sum(one.view["customer_id"] == customer_id for one in self.live())
        per_customer, in_all = self.fields["max_per_customer"], self.fields["max_redemptions"]
        reasons = (
            (self.fields["status"] == "archived", Expected(404, "coupon_not_found")),
            (self.fields["status"] == "paused", Expected(422, "coupon_paused")),
            (now < (self.fields["starts_at"] or now), Expected(422, "coupon_not_started")),
            (self.fields["ends_at"] is not None and now >= self.fields["ends_at"], Expected(422, "coupon_ended")),
            (per_customer is not None and of_customer >= per_customer, Expected(409, "customer_limit_reached")),
            (in_all is not None and len(self.live()) >= in_all, Expected(409, "coupon_exhausted")),
        )
        return next((refusal for holds, refusal in reasons if holds), None)

    def _admit(self, customer_id: str, order_id: str, hold_s: int | None) -> Redemption:
        view: dict[str, Json] = {"id": None, "code": self.code, "customer_id": customer_id, "order_id": order_id}
        view |= {"status": "confirmed", "expires_at": None, "created_at": Near(), "confirmed_at": Near()}
        if hold_s is not None:
            view |= {"status": "reserved", "expires_at": Near(hold_s), "confirmed_at": None}
        made = Redemption(self, view | {"ended_at": None, "end_reason": None})
        self.redemptions.append(made)
        return made

    def cancel_order(self, order_id: str, reason: str | None) -> Expected:
        found = self.live_of_order(order_id)
        return Expected(404, "redemption_not_found") if found is None else found.cancel(reason)

    # --- The coupon itself -------------------------------------------------------------------------------------------

    def change(self, changes: dict[str, Json], *, if_match: int | None) -> Expected:
        """A PATCH, by somebody who thinks that the coupon is of version `if_match`, or who does not care."""
        if if_match not in (None, self.version):
            return Expected(412, "version_mismatch")
        new = self.fields | changes
        if (new["max_redemptions"] is None) != (self.fields["max_redemptions"] is None):
            return Expected(422, "limit_kind_fixed")
        if (new["max_per_customer"] or UNLIMITED) < (self.fields["max_per_customer"] or UNLIMITED):
            return Expected(422, "customer_limit_lowered")
        if new["starts_at"] and new["ends_at"] and new["ends_at"] <= new["starts_at"]:
            return Expected(400, "invalid_request")
        self.fields = new
        self.version += 1
        self.history.append(self._written())
        return Expected(200, fields=self.shown())

    def shown(self) -> dict[str, Json]:
        """The members of a coupon that are known exactly."""
        return {"code": self.code, **self._written(), "version": self.version}

    def _written(self) -> dict[str, Json]:
        return {name: text_of(value) if isinstance(value, datetime) else value for name, value in self.fields.items()}

    def usage(self) -> dict[str, Json]:
        """`usage`, without its moment."""
        in_all = self.fields["max_redemptions"]
        counts = {status: sum(one.status == status for one in self.redemptions) for status in LIVE}
        return {**counts, "remaining": None if in_all is None else max(0, in_all - len(self.live())), "source": "ledger"}


UNLIMITED = 1_000_000
"""More than any limit per customer."""


def text_of(moment: datetime) -> str:
    """As the contract writes times."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def moment_of(text: str) -> datetime:
    """What the contract writes."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def is_near(text: str, near: Near, began: datetime, ended: datetime) -> bool:
    """Whether this is a time within the call, and a second on either side for clocks."""
    after, second = timedelta(seconds=near.after_s), timedelta(seconds=1)
    return began + after - second <= moment_of(text) <= ended + after + second
