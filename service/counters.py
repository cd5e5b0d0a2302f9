"""The Redis gateway: the one key builder, and one method per script of `lua/`.

Whatever Redis holds is a hint. Each script checks what it finds and drops what cannot be right, so an answer is sound
by itself; whether a seat is free is for the ledger to say. The driver's errors stop here: CounterUnavailable.

Nothing is sent twice: a script whose reply was lost may have run. Only a script that Redis says it does not know has
certainly not run, and goes again together with its text.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, DataError, InvalidResponse, NoScriptError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

import lua
from service.config import Settings
from service.errors import CounterUnavailable
from service.model import Claim, ClaimAnswer, LoadedCoupon, Refusal, Return, Search, Wish

KEY_VERSION: Final = 1
"""Rises when the meaning of a key changes, so that old and new processes do not share one."""
PARTS: Final = ("counter", "free", "pending", "customers")
"""A coupon's keys, in the order in which every script gets them."""
REFILL_MAX_SEATS: Final = 10_000
"""Most seats of one refill: some 10 ms of Redis' time, and a coupon that has more of them free is searched again."""

CLAIM: Final = lua.load("claim")
RELEASE: Final = lua.load("release")
LOAD: Final = lua.load("load")
SHRINK: Final = lua.load("shrink")
LOOK: Final = lua.load("look")
REFILL: Final = lua.load("refill")
SCRIPTS: Final = (CLAIM, RELEASE, LOAD, SHRINK, LOOK, REFILL)

_CLAIMED: Final = ClaimAnswer.CLAIMED
_NOT_LOADED: Final = Claim(ClaimAnswer.NOT_LOADED)
_SEARCHES: Final = (Search.NEVER, Search.DUE, Search.RECENT)
_REFUSALS: Final = tuple(Refusal)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((AuthenticationError,), "user or password is wrong"),
    ((TimeoutError, RedisTimeoutError), "no answer in time"),
    ((socket.gaierror,), "there is no host of this name"),
    ((ssl.SSLError,), "it does not speak TLS as rediss:// wants it"),
    ((ConnectionRefusedError,), "nothing answers there"),
    ((InvalidResponse,), "what answers there is no Redis"),
)
"""The first that fits; the rest is said in the library's words."""

UNAUTHENTICATED: Final = "unauthenticated"
"""In Redis' word for a long command of somebody who has not logged in."""

_Argument = bytes | str | int


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


def key(code: str, part: str) -> str:
    """The name of a coupon's key. The braces keep all keys of a coupon on one node of a cluster."""
    return f"usher:{KEY_VERSION}:{{{code}}}:{part}"


class Counters:
    """The coupons' counters. Every method raises CounterUnavailable where Redis could not, or did not answer in time."""

    def __init__(self, client: Redis, *, timeout_s: float, claim_age_max_ms: int, idle_s: int) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._claim_age_max_ms = claim_age_max_ms
        self._idle_s = idle_s

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """The gateway by these settings. It is there also while Redis is away, and works as soon as Redis does."""
        timeout_s = settings.redis_reply_max_ms / 1_000
        pool = BlockingConnectionPool.from_url(
            settings.redis_url.get_secret_value(),
            max_connections=settings.redis_connections,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # the library's own default sends a script again whose reply was lost
            protocol=2,  # nothing here needs 3, which costs a connection two more round trips
            driver_info=None,  # no CLIENT SETINFO: Redis 7.0 does not know it, so no right to it can be given there
        )
        counters = cls(
            Redis.from_pool(pool),
            timeout_s=timeout_s,
            claim_age_max_ms=settings.claim_age_max_ms,
            idle_s=settings.counter_idle_s,
        )
        with contextlib.suppress(CounterUnavailable):  # they are loaded with the first call instead
            await counters._send([("SCRIPT LOAD", script.text) for script in SCRIPTS])
        return counters

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def ping(self) -> None:
        """Returns when Redis answers."""
        _raise_first(await self._send([("PING",)]))

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
        calls: dict[str, Sequence[_Argument]] = {}
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
        calls: dict[str, Sequence[_Argument]] = {}
        for loaded in coupons:
            coupon = loaded.coupon
            calls[coupon.code] = (
                -1 if coupon.code in even_newer else self._claim_age_max_ms,
                self._idle_s,
                loaded.seat_max,
                coupon.id,
                coupon.version,
                coupon.status.value,
                coupon.max_redemptions or 0,
                coupon.max_per_customer or 0,
                _ms(coupon.starts_at),
                _ms(coupon.ends_at),
            )
        _raise_first(await self._run(LOAD, calls))

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

    async def refill(self, code: str, look: CounterLook, *, seats: Sequence[int], complete: bool) -> int:
        """Gives seats that the ledger has shown to be free to the counter, and says how many it took.

        `look`: read before the ledger was asked. Its pending seats are left out, and so are those pending now; a counter
        that has become another coupon's or version's since takes none. `complete`: the ledger has found all there are.
        """
        free = [seat for seat in seats if seat not in look.pending]
        takes_all = complete and len(free) <= REFILL_MAX_SEATS
        arguments = (
            self._claim_age_max_ms,
            self._idle_s,
            look.coupon_id,
            look.version,
            int(takes_all),
            orjson.dumps(free[:REFILL_MAX_SEATS]),
        )
        freed: int = _raise_first(await self._run(REFILL, {code: arguments}))[0]
        return max(freed, 0)

    def _claim_arguments(self, batch: ClaimBatch) -> Sequence[_Argument]:
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

    async def _run(self, script: lua.Script, calls: Mapping[str, Sequence[_Argument]]) -> list[Any]:
        """Runs a script for each code in one round trip; where Redis refused one, CounterUnavailable is its reply."""
        commands = [
            ("EVALSHA", script.sha, len(PARTS), *(key(code, part) for part in PARTS), *arguments)
            for code, arguments in calls.items()
        ]
        replies = await self._send(commands)
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            # Redis has restarted. These have not run; they go again with the text, in a transaction, so that a flush of the
            # scripts cannot come between.
            commands_again = [("SCRIPT LOAD", script.text), *(commands[place] for place in unknown)]
            again = await self._send(commands_again, transaction=True)
            for place, reply in zip(unknown, again[1:], strict=True):
                replies[place] = reply
        return [_unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def _send(self, commands: Sequence[Sequence[_Argument]], *, transaction: bool = False) -> list[Any]:
        """One round trip. The replies, errors among them; raises CounterUnavailable unless all of them came in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                pipeline = self._client.pipeline(transaction=transaction)
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except DataError:  # A value that the library cannot send is a defect of ours, and no trouble of Redis'.
            raise
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            # A failover has made a replica of this server; a new connection may find the one that took over.
            with contextlib.suppress(RedisError, OSError):  # They are given up in any case.
                await self._client.connection_pool.disconnect(inuse_connections=False)
        return replies


def _unavailable(error: Exception) -> CounterUnavailable:
    """The driver's error in the gateway's words, and as its cause."""
    unavailable = CounterUnavailable(_reason(error))
    unavailable.__cause__ = error
    return unavailable


def _reason(error: Exception) -> str:
    """What keeps Redis from answering, in plain words where they are known."""
    chain = (error, error.__cause__ or error.__context__)
    if any(UNAUTHENTICATED in str(one) for one in chain):
        return "it wants a user and a password"
    for kinds, words in REASONS:
        if any(isinstance(one, kinds) for one in chain):
            return words
    return f"{type(error).__name__}: {error}"


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
