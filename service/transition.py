"""The words for what can become of a redemption that is there. No I/O."""

from datetime import datetime
from enum import Enum, StrEnum
from typing import NamedTuple

from service.model import Redemption


class Verb(StrEnum):
    """What can be done with a redemption that is there. Everybody but `expire` is a client's call."""

    CONFIRM = "confirm"
    EXTEND = "extend"
    CANCEL = "cancel"
    EXPIRE = "expire"


class Transition(NamedTuple):
    """A wish to change the status of the redemption `id` (16 bytes).

    `hold_s`: for EXTEND, seconds from now on. `reason`: for CANCEL. `again`: an earlier try may have been carried out, its
    reply was lost; so what it has freed is not known to anybody.
    """

    verb: Verb
    id: bytes
    hold_s: int = 0
    reason: str | None = None
    again: bool = False


class Overdue(NamedTuple):
    """A hold whose time is over, and when that was."""

    id: bytes
    expires_at: datetime


class TransitionEnding(Enum):
    """How a transition ends."""

    DONE = "done"
    UNCHANGED = "unchanged"
    """It was so already."""
    ALREADY_CONFIRMED = "already_confirmed"
    ALREADY_CANCELLED = "already_cancelled"
    RESERVATION_EXPIRED = "reservation_expired"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    """A store failed: nothing was changed."""
    BUSY = "busy"
    """The coupon was being changed all the time."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """The ledger could not say in time whether it was carried out. Asking again is safe."""


class Freed(NamedTuple):
    """A use that a transition has given back. `seat` is None where the counter is not to hand it out."""

    code: str
    customer_id: str
    order_id: str
    seat: int | None


class Transitioned(NamedTuple):
    """How a Transition ended, the redemption as it is then, and the use that it has freed, if any."""

    ending: TransitionEnding
    redemption: Redemption | None = None
    freed: Freed | None = None
