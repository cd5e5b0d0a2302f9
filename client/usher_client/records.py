"""What Usher answers, as frozen records with aware times in UTC. Fields that this client does not know are left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self


class RedemptionStatus(StrEnum):
    """Reserved and confirmed redemptions are live; cancelled and expired ones have ended."""

    RESERVED = "reserved"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class CouponStatus(StrEnum):
    """Only an active coupon is redeemed; none of these is final."""

    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Redemption:
    """One use of a coupon, as Usher's answer has it.

    `seat` is for operators and may change. `clock_ahead`: so much this machine's clock was ahead of Usher's when the answer
    came, negative if behind; zero within the precision of the answer's `Date`.
    """

    id: str
    code: str
    customer_id: str
    order_id: str
    status: RedemptionStatus
    seat: int | None
    expires_at: datetime | None
    created_at: datetime
    confirmed_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    clock_ahead: timedelta = field(default=timedelta(), compare=False, repr=False)

    @property
    def counts(self) -> bool:
        """Whether the discount may be given, as far as is known now: it is confirmed, or a hold whose time is not over.

        A hold promises its use until `expires_at` and no longer: show the discount while it counts, confirm it, and take the
        money only when what `confirm` returned counts. An ended redemption never does; an answer can be one, where an
        idempotency key stands for it.
        """
        if self.status is RedemptionStatus.RESERVED and self.expires_at is not None:
            return datetime.now(UTC) - self.clock_ahead < self.expires_at
        return self.status is RedemptionStatus.CONFIRMED

    @classmethod
    def read(cls, said: Mapping[str, Any], clock_ahead: timedelta = timedelta()) -> Self:
        """From an answer's JSON; raises KeyError, TypeError or ValueError where that is none of Usher's."""
        return cls(
            id=said["id"],
            code=said["code"],
            customer_id=said["customer_id"],
            order_id=said["order_id"],
            status=RedemptionStatus(said["status"]),
            seat=said["seat"],
            expires_at=_time(said["expires_at"]),
            created_at=datetime.fromisoformat(said["created_at"]),
            confirmed_at=_time(said["confirmed_at"]),
            ended_at=_time(said["ended_at"]),
            end_reason=said["end_reason"],
            clock_ahead=clock_ahead,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """A coupon's live redemptions, exact at `as_of`. `remaining` is None for an unlimited coupon."""

    reserved: int
    confirmed: int
    remaining: int | None
    as_of: datetime

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """See `Redemption.read`."""
        return cls(said["reserved"], said["confirmed"], said["remaining"], datetime.fromisoformat(said["as_of"]))


@dataclass(frozen=True, slots=True)
class Coupon:
    """A coupon. None as a limit means unlimited, as a time: open on that side. `usage` is there in the answer to `get`."""

    code: str
    max_redemptions: int | None
    max_per_customer: int | None
    starts_at: datetime | None
    ends_at: datetime | None
    status: CouponStatus
    metadata: Mapping[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime
    usage: Usage | None = None

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """See `Redemption.read`."""
        return cls(
            code=said["code"],
            max_redemptions=said["max_redemptions"],
            max_per_customer=said["max_per_customer"],
            starts_at=_time(said["starts_at"]),
            ends_at=_time(said["ends_at"]),
            status=CouponStatus(said["status"]),
            metadata=said["metadata"],
            version=said["version"],
            created_at=datetime.fromisoformat(said["created_at"]),
            updated_at=datetime.fromisoformat(said["updated_at"]),
            usage=Usage.read(said["usage"]) if said.get("usage") else None,
        )


@dataclass(frozen=True, slots=True)
class CouponVersion:
    """A change of a coupon: when, by whom, and its changeable fields before (None: it was created) and after."""

    version: int
    when: datetime
    who: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """See `Redemption.read`."""
        return cls(said["version"], datetime.fromisoformat(said["when"]), said["who"], said["before"], said["after"])


@dataclass(frozen=True, slots=True)
class Validation:
    """Whether redeeming would succeed now. `reason`: the code of the refusal; `remaining`: None for an unlimited coupon."""

    valid: bool
    reason: str | None
    remaining: int | None

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """See `Redemption.read`."""
        return cls(said["valid"], said.get("reason"), said["remaining"])


def _time(said: str | None) -> datetime | None:
    return None if said is None else datetime.fromisoformat(said)
