"""The words for what the reconciler does: runs, what they find, and who leads. No I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple


class Mode(StrEnum):
    """What a run is to do. CHECK compares, REPAIR compares and mends, RESEED loads counters that are missing or outdated."""

    CHECK = "check"
    REPAIR = "repair"
    RESEED = "reseed"


class RunStatus(StrEnum):
    """How far a run is. A queued one is a wish that nobody has fulfilled yet."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Cause(StrEnum):
    """Why a run is made."""

    ASKED = "asked"
    """By somebody, through the API or at the command line."""
    SCHEDULE = "schedule"
    CACHE_LOSS = "cache_loss"
    """Redis had lost its keys, or is another server than before."""


class Kind(StrEnum):
    """How a counter differs from the ledger; or the ledger from what must hold."""

    MISSING = "missing"
    """There is no counter: a note and no fault, since counters expire when nobody asks for them."""
    OUTDATED = "outdated"
    """Limits, status, window or version differ."""
    LEAKED = "leaked"
    """Handed out and in no row, neither free nor pending."""
    GHOST = "ghost"
    """Free and in a row."""
    BEHIND = "behind"
    """A row sits on a seat above `next`."""
    CUSTOMER_COUNT = "customer_count"
    """A customer's count differs from the customer's live redemptions."""
    OVERSOLD = "oversold"
    """A row was admitted on a seat above the limit then in force, or a customer has too many. Impossible, so watched."""


class Finding(NamedTuple):
    """One difference. `before`: what the counter said. `after`: what the ledger says, and the counter after a repair.

    Both are JSON values. `seat` for LEAKED, GHOST and OVERSOLD; `customer_id` for CUSTOMER_COUNT and a customer's OVERSOLD.
    """

    code: str
    kind: Kind
    before: Any
    after: Any
    seat: int | None = None
    customer_id: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A row of `reconcile_run`. `id` is the 16 bytes of a UUIDv7; `code` None: all coupons. Times are aware, in UTC."""

    id: bytes
    mode: Mode
    code: str | None
    status: RunStatus
    cause: Cause
    asked_by: str
    asked_at: datetime
    run_by: str | None = None
    begun_at: datetime | None = None
    ended_at: datetime | None = None
    coupons_checked: int = 0
    finding_count: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Leader:
    """The reconciler that leads: its name (host and process), and since when."""

    name: str
    since: datetime
