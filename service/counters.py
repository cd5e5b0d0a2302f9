"""The Redis gateway: the one key builder, and one method per script of `lua/`.

Whatever Redis holds is a hint. Each script checks what it finds and drops what cannot be right, so an answer is sound
by itself; whether a seat is free is for the ledger to say. The driver's errors stop here: CounterUnavailable.

Nothing is sent twice: a script whose reply was lost may have run. Only a script that Redis says it does not know has
certainly not run, and goes again together with its text.

While Redis is away nothing is sent at all but a probe, until that is answered: see the breaker.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import orjson
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

import lua
from service.breaker import Breaker
from service.config import Settings
from service.errors import CounterUnavailable
from service.model import Claim, ClaimAnswer, Coupon, CouponSeed, LoadedCoupon, Mark, Refusal, Return, Search, Wish
from service.redis_client import Argument, client_of, drop_idle, exchange, exchange_plain, is_too_late
from service.redis_reasons import unavailable

KEY_VERSION: Final = 1
"""Rises when the meaning of a key changes, so that old and new processes do not share one."""
PARTS: Final = ("counter", "free", "pending", "customers")
"""A coupon's keys, in the order in which every script gets them."""
REFILL_MAX_SEATS: Final = 10_000
"""Most seats of one refill: some 10 ms of Redis' time, and a coupon that has more of them free is searched again."""

CLAIM: Final = lua.load("claim")
RELEASE: Final = lua.load("release")
LOAD: Final = lua.load("load")
RESEED: Final = lua.load("reseed")
SHRINK: Final = lua.load("shrink")
LOOK: Final = lua.load("look")
REFILL: Final = lua.load("refill")
HOLDERS: Final = lua.load("holders")
REMAINING: Final = lua.load("remaining")
SCRIPTS: Final = (CLAIM, RELEASE, LOAD, RESEED, SHRINK, LOOK, REFILL, HOLDERS, REMAINING)

_LOAD_SCRIPTS: Final = tuple(("SCRIPT LOAD", script.text) for script in SCRIPTS)
_CLAIMED: Final = ClaimAnswer.CLAIMED
_NOT_LOADED: Final = Claim(ClaimAnswer.NOT_LOADED)
_SEARCHES: Final = (Search.NEVER, Search.DUE, Search.RECENT)
_REFUSALS: Final = tuple(Refusal)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ClaimBatch:
    """The wishes of one coupon, answered in this order.

    `settled`: orders whose claims have ended since, each with the seat that it was claimed with (None where the coupon
    has none). They are no longer pending; sending them twice or never is harmless.
    """

    code: str
    wishes: Sequence[Wish]
    settled: Sequence[tuple[str, int | None]] = ()


@dataclass(frozen=True, slots=True)
class CounterLook:
    """A counter at one moment. `next`: the highest seat handed out. `pending`: seats claimed and not yet settled."""

    coupon_id: int
    version: int
    max_redemptions: int | None
    next: int
    pending: frozenset[int]


@dataclass(frozen=True, slots=True)
class Holder:
    """An order whose claim of a seat is pending, since `age_s` seconds."""

    order_id: str
    seat: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a counter could still hand out: `count` seats, 0 where there is no limit; and some of them, to be looked at.

    `search`: when free seats were last looked for.
    """

    coupon_id: int
    version: int
    max_redemptions: int | None
    count: int
    search: Search
    seats: tuple[int, ...]


def key(code: str | None, part: str) -> str:
    """The name of a coupon's key, or of one for all. The braces keep all keys of a coupon on one node of a cluster."""
    return f"usher:{KEY_VERSION}:{part}" if code is None else f"usher:{KEY_VERSION}:{{{code}}}:{part}"


MARKER: Final = key(None, "marker")
"""A hash with the server's `run_id`, and the same as `reseeded`; for that needs no further command than the scripts do."""


def fields(coupon: Coupon) -> dict[str, int | str]:
    """What a counter says of this coupon, by the names of its fields; 0 where there is no limit or no time."""
    return {
        "coupon_id": coupon.id,
        "version": coupon.version,
        "status": coupon.status.value,
        "max_redemptions": coupon.max_redemptions or 0,
        "max_per_customer": coupon.max_per_customer or 0,
        "starts_at": _ms(coupon.starts_at),
        "ends_at": _ms(coupon.ends_at),
    }


class Counters:
    """The coupons' counters. Every method raises CounterUnavailable where Redis could not, or did not answer in time."""

    def __init__(self, client: Redis, *, timeout_s: float, claim_age_max_ms: int, idle_s: int) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._claim_age_max_ms = claim_age_max_ms
        self._idle_s = idle_s
        self.breaker = Breaker(self._probe)

    @property
    def claim_age_max_ms(self) -> int:
        """A pending order that is older counts as absent."""
        return self._claim_age_max_ms

    @property
    def idle_s(self) -> int:
        """A coupon's keys leave when nobody has asked for it so long."""
        return self._idle_s

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """The gateway by these settings. It is there also while Redis is away, and works as soon as Redis does."""
        timeout_s = settings.redis_reply_max_ms / 1_000
        counters = cls(
            client_of(settings, timeout_s=timeout_s),
            timeout_s=timeout_s,
            claim_age_max_ms=settings.claim_age_max_ms,
            idle_s=settings.counter_idle_s,
        )
        with contextlib.suppress(CounterUnavailable):  # they are loaded with the first call instead
            await counters._exchange(_LOAD_SCRIPTS)
        return counters

    async def close(self) -> None:
        """Closes the connections, and probes no more."""
        await self.breaker.stop()
        await self._client.aclose()

    @property
    def is_away(self) -> bool:
        """Whether Redis is known to be away: what is asked of it fails at once."""
        return self.breaker.is_open

    async def ping(self) -> None:
        """Returns when Redis answers and is asked; it is pinged also while it is known to be away."""
        _raise_first(_errors(await self._exchange([("PING",)])))
        self.breaker.enter()

    async def _probe(self) -> None:
        """Returns when Redis answers and knows the scripts. Connections from before may be dead and not say so."""
        await drop_idle(self._client)
        _raise_first(_errors(await self._exchange([("PING",), *_LOAD_SCRIPTS])))

    async def claim(self, batches: Sequence[ClaimBatch]) -> list[list[Claim] | CounterUnavailable]:
        """Claims for many coupons, each in at most one batch, in one round trip; answers in the order of the wishes.

        A coupon whose script Redis refused (out of memory, say) has the error in its place: nothing was claimed there.
        Raised, CounterUnavailable means all of them, and that claims may have been made: each order is pending then,
        and its next claim gets the same seat.
        """
        replies = await self._run(CLAIM, {batch.code: self._claim_arguments(batch) for batch in batches})
        return [
            reply if isinstance(reply, CounterUnavailable) else _claims(reply, len(batch.wishes))
            for batch, reply in zip(batches, replies, strict=True)
        ]

    async def release(self, returns: Mapping[str, Sequence[Return]]) -> None:
        """Gives claims back, by code. Raises after all were tried; a seat that was not given back is found by a refill."""
        calls: dict[str, Sequence[Argument]] = {}
        for code, given_back in returns.items():
            calls[code] = (
                self._claim_age_max_ms,
                self._idle_s,
                orjson.dumps([one.order_id for one in given_back]),
                orjson.dumps([one.customer_id for one in given_back]),
                orjson.dumps([one.seat or 0 for one in given_back]),
                orjson.dumps([-1 if one.customer_live is None else one.customer_live for one in given_back]),
            )
        _raise_first(await self._run(RELEASE, calls))

    async def load(self, coupons: Sequence[LoadedCoupon], *, even_newer: Collection[str] = ()) -> None:
        """Makes the counters that are missing, or differ from the ledger's coupon, and leaves the others alone.

        A counter of a newer version that was loaded a moment ago stays: the caller may have read the ledger before it.
        `even_newer`: codes whose counters are known to be false, since the ledger was read after them.
        """
        calls: dict[str, Sequence[Argument]] = {}
        for loaded in coupons:
            coupon = loaded.coupon
            calls[coupon.code] = (
                -1 if coupon.code in even_newer else self._claim_age_max_ms,
                self._idle_s,
                loaded.seat_max,
                *fields(coupon).values(),
            )
        _raise_first(await self._run(LOAD, calls))

    async def reseed(self, seeds: Sequence[CouponSeed], *, force: bool = False) -> int:
        """The same for many coupons at once, in one call; how many counters were made. All keys must be on one node.

        `force`: also where the counter says the same. Redis does nothing else meanwhile: some 2 ms for 250 that are missing.
        """
        keys = [key(seed.code, part) for seed in seeds for part in PARTS]
        arguments = (self._claim_age_max_ms, self._idle_s, int(force), orjson.dumps([seed[1:] for seed in seeds]))
        made: int = _raise_first(await self._call(RESEED, [(len(keys), *keys, *arguments)]))[0]
        return made

    async def memory_share(self) -> float:
        """How much of the memory that it may use Redis uses, from 0 to 1; 0 where it has no bound."""
        (info,) = _raise_first(_errors(await self._send([("INFO", "memory")])))
        return float(info["used_memory"] / info["maxmemory"]) if info["maxmemory"] else 0.0

    async def mark(self) -> Mark:
        """Whose keys these are: a mark that is missing or another server's went together with counters."""
        replies = await self._send([("INFO", "server"), ("HMGET", MARKER, "run_id", "reseeded")])
        (info,) = _raise_first(_errors(replies[:1]))
        # A key of a wrong type, which somebody has written, is no mark.
        found = (None, None) if isinstance(replies[1], Exception) else replies[1]
        noted, reseeded = (one and one.decode(errors="replace") for one in found)
        return Mark(str(info["run_id"]), noted, reseeded)

    async def set_mark(self, run_id: str, *, reseeded: bool = False) -> None:
        """Notes that a loss was seen: these are the keys of the server with this id. `reseeded`: that it was made good."""
        seen = [("UNLINK", MARKER), ("HSET", MARKER, "run_id", run_id)]
        commands = [("HSET", MARKER, "reseeded", run_id)] if reseeded else seen
        _raise_first(_errors(await self._send(commands, transaction=True)))

    async def shrink(self, code: str, seat_max: int) -> None:
        """After a collision: nothing counts as free any more, and `next` is at least the highest seat in a row."""
        _raise_first(await self._run(SHRINK, {code: (self._idle_s, seat_max)}))

    async def look(self, code: str) -> CounterLook | None:
        """What to know before the ledger is asked for free seats up to `next`; None where no counter is loaded."""
        reply = _raise_first(await self._run(LOOK, {code: (self._claim_age_max_ms,)}))[0]
        if not reply:
            return None
        coupon_id, version, max_redemptions, next_seat = reply[:4]
        return CounterLook(coupon_id, version, max_redemptions or None, next_seat, frozenset(reply[4:]))

    async def holders(self, code: str, seats: Sequence[int]) -> list[Holder]:
        """The orders that hold these seats by claims that are pending."""
        reply = _raise_first(await self._run(HOLDERS, {code: (self._claim_age_max_ms, orjson.dumps(seats))}))[0]
        return [
            Holder(order_id.decode(errors="replace"), seat, age_ms / 1_000)
            for order_id, seat, age_ms in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        ]

    async def remaining(self, codes: Sequence[str]) -> list[Remaining | None]:
        """What the counters of these coupons, each named once, could hand out now, in one round trip; None: not loaded."""
        replies = _raise_first(await self._run(REMAINING, dict.fromkeys(codes, ())))
        return [
            Remaining(reply[0], reply[1], reply[2] or None, reply[3], _SEARCHES[reply[4]], tuple(reply[5:])) if reply else None
            for reply in replies
        ]

    async def refill(self, code: str, look: CounterLook, *, seats: Sequence[int], complete: bool | None) -> int:
        """Gives seats that the ledger has shown to be free to the counter, and says how many it took.

        `look`: read before the ledger was asked. Its pending seats are left out, and so are those pending now; a counter
        that has become another coupon's or version's since takes none. `complete`: the ledger has found all there are; None:
        nothing was searched, these seats were missed, and what an earlier search has said stands.
        """
        free = [seat for seat in seats if seat not in look.pending]
        takes_all = -1 if complete is None else int(complete and len(free) <= REFILL_MAX_SEATS)
        arguments = (
            self._claim_age_max_ms,
            self._idle_s,
            look.coupon_id,
            look.version,
            takes_all,
            orjson.dumps(free[:REFILL_MAX_SEATS]),
        )
        freed: int = _raise_first(await self._run(REFILL, {code: arguments}))[0]
        return max(freed, 0)

    async def run(self, script: lua.Script, calls: Mapping[str, Sequence[bytes | str | int]]) -> list[Any]:
        """Runs a script of another part of this gateway for each code, in one round trip; the replies in this order."""
        return _raise_first(await self._run(script, calls))

    def _claim_arguments(self, batch: ClaimBatch) -> Sequence[Argument]:
        """The arguments of one claim. One JSON text for all wishes costs a quarter of one argument for each."""
        wishes, settled = batch.wishes, batch.settled
        notes: list[int] = []
        for place, wish in enumerate(wishes, 1):
            if wish.again or wish.vouched or wish.customer_seat or wish.customer_live is not None:
                customer_live = -1 if wish.customer_live is None else wish.customer_live
                notes += (place, int(wish.again), int(wish.vouched), wish.customer_seat or 0, customer_live)
        return (
            self._claim_age_max_ms,
            self._idle_s,
            orjson.dumps([order_id for order_id, _ in settled]),
            orjson.dumps([seat or 0 for _, seat in settled]),
            orjson.dumps([wish.order_id for wish in wishes]),
            orjson.dumps([wish.customer_id for wish in wishes]),
            orjson.dumps(notes),
        )

    async def _run(self, script: lua.Script, calls: Mapping[str, Sequence[Argument]]) -> list[Any]:
        """Runs a script for each code in one round trip; where Redis refused one, CounterUnavailable is its reply."""
        return await self._call(
            script, [(len(PARTS), *(key(code, part) for part in PARTS), *arguments) for code, arguments in calls.items()]
        )

    async def _call(self, script: lua.Script, calls: Sequence[Sequence[Argument]]) -> list[Any]:
        """The same for calls that begin with the number of their keys, and the keys."""
        commands = [("EVALSHA", script.sha, *call) for call in calls]
        replies = await self._send(commands, plain=True)
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            # Redis has restarted. These have not run; they go again with the text, in a transaction, so that a flush of the
            # scripts cannot come between.
            commands_again = [("SCRIPT LOAD", script.text), *(commands[place] for place in unknown)]
            again = await self._send(commands_again, transaction=True)
            for place, reply in zip(unknown, again[1:], strict=True):
                replies[place] = reply
        return _errors(replies)

    async def _send(
        self, commands: Sequence[Sequence[Argument]], *, transaction: bool = False, plain: bool = False
    ) -> list[Any]:
        """One round trip, unless Redis is known to be away. How it ends is told to the breaker; raises CounterUnavailable."""
        entered = self.breaker.enter()
        try:
            if plain:
                replies = await exchange_plain(self._client, commands, timeout_s=self._timeout_s)
            else:
                replies = await self._exchange(commands, transaction=transaction)
        except CounterUnavailable as error:
            self.breaker.failed(entered, error, too_late=is_too_late(error))
            raise
        self.breaker.succeeded(entered)
        return replies

    async def _exchange(self, commands: Sequence[Sequence[Argument]], *, transaction: bool = False) -> list[Any]:
        """The replies, errors among them, whatever the breaker says."""
        return await exchange(self._client, commands, timeout_s=self._timeout_s, transaction=transaction)


def _errors(replies: list[Any]) -> list[Any]:
    """The replies; where Redis refused, CounterUnavailable."""
    return [unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]


def _raise_first(replies: list[Any]) -> list[Any]:
    """The replies; raises the first that is an error."""
    for reply in replies:
        if isinstance(reply, CounterUnavailable):
            raise reply
    return replies


def _claims(reply: Sequence[int], count: int) -> list[Claim]:
    """The claims in a reply of claim.lua to so many wishes."""
    if not reply[0]:
        return [_NOT_LOADED] * count
    coupon_id, version, search = reply[1], reply[2], _SEARCHES[reply[3]]
    refused: dict[int, Claim] = {}
    claims = []
    for answer, seat, customer_seat in zip(reply[4::3], reply[5::3], reply[6::3], strict=True):
        if answer == 0:
            claims.append(Claim(_CLAIMED, coupon_id, version, seat or None, customer_seat or None))
            continue
        if answer not in refused:
            refusal = _REFUSALS[answer - 1]
            found = search if refusal is Refusal.COUPON_EXHAUSTED else None
            refused[answer] = Claim(ClaimAnswer.REFUSED, coupon_id, version, refusal=refusal, search=found)
        claims.append(refused[answer])
    return claims


def _ms(moment: datetime | None) -> int:
    """Milliseconds since 1970, at least 1; 0 for None."""
    return 0 if moment is None else max(1, (moment - _EPOCH) // timedelta(milliseconds=1))
