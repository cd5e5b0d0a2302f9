"""The other half of the Redis gateway: what check and repair ask of counters, and how they mend them.

The looks change nothing, not even an expiry time: their scripts declare that they do not write, so Redis refuses it. What they
return is what is written there, whether it can be right or not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import lua
from service.counters import PARTS, Counters

INSPECT: Final = lua.load("inspect")
FREE_PAGE: Final = lua.load("free_page")
CUSTOMERS_PAGE: Final = lua.load("customers_page")
SEAT_STATES: Final = lua.load("seat_states")
CUSTOMER_COUNTS: Final = lua.load("customer_counts")
IN_FLIGHT: Final = lua.load("in_flight")
WITHDRAW: Final = lua.load("withdraw")
RECOUNT: Final = lua.load("recount")
SCRIPTS: Final = (INSPECT, FREE_PAGE, CUSTOMERS_PAGE, SEAT_STATES, CUSTOMER_COUNTS, IN_FLIGHT, WITHDRAW, RECOUNT)

FIELDS: Final = (
    "coupon_id", "version", "status", "max_redemptions", "max_per_customer", "starts_at", "ends_at",
    "loaded", "next", "searched",
)  # fmt: skip
"""In the order of lua/modules/counter.lua."""
TYPES: Final = dict(zip(PARTS, ("hash", "set", "hash", "hash"), strict=True))
NO_TYPE: Final = "none"
"""Of a key that is not there."""

PAGE_ENTRIES: Final = 1_000
"""Of a set or a hash in one reply: some 0.3 ms of Redis' time."""
BEGIN: Final = "0"
"""The cursor at which a walk through a set or a hash begins, and at which it is over."""


class SeatState(IntEnum):
    """What a counter says of a seat."""

    ABOVE = 0
    """Above `next`, or no seat at all."""
    HANDED_OUT = 1
    FREE = 2
    PENDING = 3


@dataclass(frozen=True, slots=True)
class Inspected:
    """A counter as it is written. `is_right`: a script could have written it; else whoever claims next drops it.

    `values`: its fields as text, those that are there. `types`: of its four keys. Then how many entries they have.
    `unsearched`: seats up to this one have not been looked for since it was made or shrunk; 0: they have.
    """

    is_right: bool
    types: Mapping[str, str]
    values: Mapping[str, str]
    free_count: int
    customer_count: int
    pending_count: int
    unsearched: int

    def number(self, field: str) -> int:
        """A field of a counter that is right, but `status`."""
        return int(self.values[field])


@dataclass(frozen=True, slots=True)
class SeatStates:
    """What a counter that is right says of the seats that were asked about, in their order."""

    coupon_id: int
    version: int
    next: int
    states: Sequence[SeatState]


class Comparing:
    """Looks at counters, and mends what was found. Every method raises CounterUnavailable, as those of Counters do.

    Texts from Redis may be anything. Those that are no UTF-8 come with half surrogates, and find their entry again that way.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    # --- Looks -------------------------------------------------------------------------------------------------

    async def inspect(self, codes: Sequence[str]) -> list[Inspected | None]:
        """The counters of these coupons, each named once, in one round trip; None: missing."""
        replies = await self._counters.run(INSPECT, dict.fromkeys(codes, ()))
        return [_inspected(reply) if reply else None for reply in replies]

    async def free_page(self, cursors: Mapping[str, str]) -> dict[str, tuple[str, list[str]]]:
        """By code: where to go on, and members of `free`, some PAGE_ENTRIES. One can come twice; the walk is over at BEGIN."""
        calls = {code: (cursor, PAGE_ENTRIES) for code, cursor in cursors.items()}
        replies = await self._counters.run(FREE_PAGE, calls)
        return {code: (_text(reply[0]), list(map(_text, reply[1:]))) for code, reply in zip(calls, replies, strict=True)}

    async def customers_page(self, cursors: Mapping[str, str]) -> dict[str, tuple[str, dict[str, str]]]:
        """By code: where to go on, and customers with their counts, some PAGE_ENTRIES. One can come twice."""
        calls = {code: (cursor, PAGE_ENTRIES) for code, cursor in cursors.items()}
        replies = await self._counters.run(CUSTOMERS_PAGE, calls)
        return {
            code: (_text(reply[0]), dict(zip(map(_text, reply[1::2]), map(_text, reply[2::2]), strict=True)))
            for code, reply in zip(calls, replies, strict=True)
        }

    async def seat_states(self, seats: Mapping[str, Sequence[int | str]]) -> dict[str, SeatStates | None]:
        """By code, what the counter says of these seats, or members of `free`. None: it is missing, or cannot be right."""
        age_max_ms = self._counters.claim_age_max_ms
        calls = {code: (age_max_ms, _json(wanted)) for code, wanted in seats.items()}
        replies = await self._counters.run(SEAT_STATES, calls)
        return {
            code: SeatStates(reply[0], reply[1], reply[2], list(map(SeatState, reply[3:]))) if reply else None
            for code, reply in zip(calls, replies, strict=True)
        }

    async def customer_counts(self, customers: Mapping[str, Sequence[str]]) -> dict[str, list[str | None]]:
        """By code, these customers' counts as they are written; None for who is not known."""
        replies = await self._counters.run(CUSTOMER_COUNTS, {code: (_json(wanted),) for code, wanted in customers.items()})
        return {
            code: [None if count is None else _text(count) for count in reply]
            for code, reply in zip(customers, replies, strict=True)
        }

    async def in_flight(self, codes: Sequence[str], *, age_min_ms: int, orders_max: int) -> dict[str, list[tuple[str, int]]]:
        """By code, orders that have been pending for longer than that, and for how many milliseconds; at most so many."""
        arguments = (age_min_ms, self._counters.claim_age_max_ms, orders_max)
        replies = await self._counters.run(IN_FLIGHT, dict.fromkeys(codes, arguments))
        return {
            code: list(zip(map(_text, reply[::2]), reply[1::2], strict=True))
            for code, reply in zip(codes, replies, strict=True)
        }

    # --- What mends --------------------------------------------------------------------------------------------

    async def withdraw(self, code: str, coupon_id: int, seats: Sequence[int | str]) -> int:
        """Takes seats, or whatever else is a member, out of `free`; how many have left. A search is due after it."""
        reply: int = (await self._counters.run(WITHDRAW, {code: (self._counters.idle_s, coupon_id, _json(seats))}))[0]
        return max(reply, 0)

    async def recount(self, code: str, coupon_id: int, counts: Sequence[tuple[str, str, int]]) -> int:
        """Sets customers' counts: (customer, count as it was seen, live). Only where it is what was seen; how many were set."""
        arguments = (
            self._counters.idle_s,
            coupon_id,
            _json([customer for customer, _, _ in counts]),
            _json([seen for _, seen, _ in counts]),
            _json([live for _, _, live in counts]),
        )
        reply: int = (await self._counters.run(RECOUNT, {code: arguments}))[0]
        return max(reply, 0)


def _inspected(reply: Sequence[Any]) -> Inspected:
    is_right, types, values, free, customers, pending, unsearched = reply
    found = zip(FIELDS, values, strict=bool(values))
    return Inspected(
        is_right == 1,
        dict(zip(PARTS, map(_text, types), strict=True)),
        {field: _text(value) for field, value in found if value is not None},
        free,
        customers,
        pending,
        unsearched,
    )


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _json(values: Sequence[int | str]) -> bytes:
    """JSON as `cjson` reads it, which takes any bytes within a text."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogateescape")
