"""The words of the domain: frozen records and closed enums. No I/O, no behaviour beyond what a value knows of itself.

The order of an enum's members is their precedence, where a comment says so. Records that every request makes are named
tuples: a frozen dataclass takes three times as long to make.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, NamedTuple

MAX_REDEMPTIONS_MAX = 2_000_000_000
"""Largest limit of a coupon; fits a 32-bit column and the exact integers of Lua's doubles."""
MAX_PER_CUSTOMER_MAX = 1_000
"""Largest limit per customer; a customer's seats are read as one short list."""
CODE_PATTERN = r"[A-Z0-9][A-Z0-9_-]{0,63}"
"""A coupon's code after trimming and upper-casing."""
HOLD_MAX_S = 86_400
"""Longest hold: a day is longer than any payment takes, and a forgotten one is back the next day."""
NAME_CHARS_MAX = 128
"""Characters of a `customer_id` or an `order_id`."""
GUESSES_MAX = 20
"""Unknown codes that a customer of a key may name within the window; people mistype, and do not do so twenty times."""
GUESS_WINDOW_S = 60.0


class CouponStatus(StrEnum):
    """Only an active coupon is redeemed; none of these is final."""

    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"


class RedemptionStatus(StrEnum):
    """Reserved and confirmed redemptions are live; cancelled and expired ones have ended."""

    RESERVED = "reserved"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Scope(StrEnum):
    """What a key may do; `admin` includes the others."""

    REDEEM = "redeem"
    READ = "read"
    ADMIN = "admin"


class Refusal(StrEnum):
    """Why a redemption is refused, by the contract's code. The order is that in which refusals are decided."""

    COUPON_NOT_FOUND = "coupon_not_found"
    COUPON_PAUSED = "coupon_paused"
    COUPON_NOT_STARTED = "coupon_not_started"
    COUPON_ENDED = "coupon_ended"
    CUSTOMER_LIMIT_REACHED = "customer_limit_reached"
    COUPON_EXHAUSTED = "coupon_exhausted"


class Search(StrEnum):
    """When a counter's free seats were last looked for in the ledger."""

    NEVER = "never"
    DUE = "due"
    RECENT = "recent"


@dataclass(frozen=True, slots=True)
class Coupon:
    """A row of `coupon`. None as a limit means unlimited, as a time: open on that side. Times are aware, in UTC."""

    id: int
    code: str
    max_redemptions: int | None
    max_per_customer: int | None
    starts_at: datetime | None
    ends_at: datetime | None
    status: CouponStatus
    metadata: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class CouponVersion:
    """A row of `coupon_history`: a change, by whom, when, and the coupon's changeable fields as JSON before and after it."""

    version: int
    changed_at: datetime
    changed_by: str
    before: dict[str, Any] | None
    after: dict[str, Any]


class Redemption(NamedTuple):
    """A row of `redemption`. `id` is the 16 bytes of a UUIDv7, `code` that of its coupon."""

    id: bytes
    coupon_id: int
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

    def as_of(self, now: datetime) -> "Redemption":
        """As it is at `now`: a hold past its `expires_at` is expired, whether that has been written or not."""
        if self.status is RedemptionStatus.RESERVED and self.expires_at is not None and self.expires_at <= now:
            return self._replace(status=RedemptionStatus.EXPIRED, seat=None, ended_at=self.expires_at)
        return self


@dataclass(frozen=True, slots=True)
class Usage:
    """A coupon's live redemptions by the ledger, exact at `as_of`. `remaining` is None for an unlimited coupon."""

    reserved: int
    confirmed: int
    remaining: int | None
    as_of: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A row of `api_key`. The key itself is nowhere: the ledger holds its SHA-256 digest."""

    id: int
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Order(NamedTuple):
    """What a caller asks for: one use of the coupon `code` by `customer_id` for `order_id`.

    `hold_s`: reserve it for so many seconds; 0: confirm it at once. `idempotency_key`: visible ASCII.
    """

    code: str
    customer_id: str
    order_id: str
    api_key_id: int
    hold_s: int = 0
    idempotency_key: str | None = None


class Guess(NamedTuple):
    """A code that a customer of a key has named, and that no coupon has."""

    api_key_id: int
    customer_id: str
    code: str


# --- The counter's answers ---------------------------------------------------------------------------------------


class ClaimAnswer(Enum):
    """How a claim ends."""

    CLAIMED = "claimed"
    NOT_LOADED = "not_loaded"
    REFUSED = "refused"


class Wish(NamedTuple):
    """One request of a claim.

    `again`: another attempt after a collision, so the pending seat is not to be had again. `vouched`: the ledger has just
    said that status and window allow it, whatever the counter and Redis' clock say. `customer_seat` and `customer_live`:
    the customer's lowest free seat and number of live redemptions as the ledger has just said, or None.
    """

    order_id: str
    customer_id: str
    again: bool = False
    vouched: bool = False
    customer_seat: int | None = None
    customer_live: int | None = None


class Claim(NamedTuple):
    """The counter's answer to a Wish.

    CLAIMED: `coupon_id`, and `seat` and `customer_seat` where the coupon limits them. REFUSED: `refusal`
    (COUPON_NOT_FOUND for an archived coupon), `version` of the counter, and for COUPON_EXHAUSTED `search`. NOT_LOADED: no more.
    """

    answer: ClaimAnswer
    coupon_id: int = 0
    version: int = 0
    seat: int | None = None
    customer_seat: int | None = None
    refusal: Refusal | None = None
    search: Search | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """One claim given back. `customer_live`: the customer's live redemptions where the ledger has just said; else one less."""

    order_id: str
    customer_id: str
    seat: int | None
    customer_live: int | None = None


# --- The ledger's answers ----------------------------------------------------------------------------------------


class RecordEnding(Enum):
    """How the ledger ends a row that was to be recorded, in the order in which it is decided."""

    RECORDED = "recorded"
    KEY_KNOWN = "key_known"
    ORDER_LIVE = "order_live"
    COUPON_REFUSES = "coupon_refuses"
    CUSTOMER_SEAT_TAKEN = "customer_seat_taken"
    SEAT_TAKEN = "seat_taken"
    NOT_RECORDED = "not_recorded"
    """Certainly not: no statement with this row can still land."""
    UNKNOWN = "unknown"
    """A statement with this row was sent and the ledger could not say in time what became of it."""


class NewRedemption(NamedTuple):
    """A claimed redemption to be recorded: confirmed, or a hold until `expires_at`.

    `idempotency_key` is visible ASCII. `deadline` is in seconds of the event loop's clock.
    """

    id: bytes
    coupon_id: int
    code: str
    customer_id: str
    order_id: str
    seat: int | None
    customer_seat: int | None
    api_key_id: int
    created_at: datetime
    deadline: float
    expires_at: datetime | None = None
    idempotency_key: str | None = None


class Record(NamedTuple):
    """The ending of one row, with the order's live redemption for ORDER_LIVE, the key's for KEY_KNOWN."""

    ending: RecordEnding
    redemption: Redemption | None = None


@dataclass(frozen=True, slots=True)
class LookUp:
    """A refused order to be looked up in the ledger, and the key that came with it, if any."""

    code: str
    customer_id: str
    order_id: str
    api_key_id: int = 0
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the ledger says of a refused order, at one moment.

    `coupon` is None where no coupon has that code. `live`: the order's live redemption. `refusal`: by status and window alone.
    `customer_seats`: the customer's seats in live rows, ascending, and `overdue`: the ids of those rows that are holds whose
    time is over; both empty where the coupon does not limit its customers. `known`: what the idempotency key stands for.
    `is_busy`: a large change of the coupon is under way.
    """

    coupon: Coupon | None
    live: Redemption | None
    refusal: Refusal | None
    customer_seats: tuple[int, ...]
    overdue: tuple[bytes, ...] = ()
    known: Redemption | None = None
    is_busy: bool = False


class FoundKey(NamedTuple):
    """An idempotency key that has found a redemption which it did not make."""

    coupon_id: int
    api_key_id: int
    idempotency_key: str
    redemption_id: bytes


@dataclass(frozen=True, slots=True)
class LoadedCoupon:
    """A coupon with the highest seat in any of its rows (0 where there is none): all that a counter is made from."""

    coupon: Coupon
    seat_max: int


class CouponSeed(NamedTuple):
    """The same for many coupons, in plain values, as the counter has them. 0: no limit, or an open window."""

    code: str
    seat_max: int
    coupon_id: int
    version: int
    status: str
    max_redemptions: int
    max_per_customer: int
    starts_at_ms: int
    ends_at_ms: int


class Noted(NamedTuple):
    """What the ledger says of a guess.

    `counted`: it is one of the GUESSES_MAX within the window; if not, it is one too many. `limited_s`: for so many seconds the
    customer is limited from now on, 0 for not at all. `reached`: this very guess has made it so.
    """

    counted: bool
    limited_s: float
    reached: bool


# --- The flow's answers ------------------------------------------------------------------------------------------


class Ending(Enum):
    """How a request to redeem ends: the closed set."""

    CREATED = "created"
    """Recorded by this request."""
    REPLAYED = "replayed"
    """The order had, or overlapped with, a redemption: that one is the answer."""
    ORDER_MISMATCH = "order_mismatch"
    """The order's redemption belongs to another customer."""
    BUSY = "busy"
    """A large change of the coupon is under way: nothing was redeemed."""
    KEY_REUSED = "key_reused"
    """The idempotency key stands for a redemption of another customer or order."""
    REFUSED = "refused"
    """The ledger has confirmed that there is no use to be had."""
    LIMITED = "limited"
    """The customer has named too many unknown codes, and the order has no redemption: the coupon was not even looked for."""
    UNAVAILABLE = "unavailable"
    """A store failed: nothing was redeemed, and nothing stays claimed."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """The ledger could not say in time: the redemption exists already or never will."""


class Redeemed(NamedTuple):
    """The answer to an Order: a redemption for CREATED and REPLAYED, a refusal for REFUSED, whole seconds for LIMITED."""

    ending: Ending
    redemption: Redemption | None = None
    refusal: Refusal | None = None
    retry_after_s: int = 0


class Mark(NamedTuple):
    """Whose the keys in Redis are.

    `run_id`: the server's, another one after each start. `noted`: the one at the last look; None: no mark. `reseeded`: the one
    on which a reseed has come to its end since; None: none has.
    """

    run_id: str
    noted: str | None
    reseeded: str | None
