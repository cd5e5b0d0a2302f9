"""Gateways that say what a test wants them to say, and the API served in this process over them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from deploy.local import free_port
from service.api.application import application
from service.api.authentication import Authenticator
from service.api.parts import AUTHENTICATOR, LEDGER, READINESS, REDEEMER
from service.api.readiness import Readiness
from service.api.server import serve
from service.config import Settings
from service.ledger.keys import digest
from service.model import (
    ApiKey,
    Coupon,
    CouponStatus,
    Ending,
    Order,
    Redeemed,
    Redemption,
    RedemptionStatus,
    Scope,
    Usage,
)

NOW = datetime(2026, 11, 22, 10, 15, 30, 123456, tzinfo=UTC)
KEY = "usher_" + "k" * 43
READER = "usher_" + "r" * 43
CASHIER = "usher_" + "c" * 43

COUPON = Coupon(
    id=1,
    code="GOLD20",
    max_redemptions=20,
    max_per_customer=1,
    starts_at=None,
    ends_at=None,
    status=CouponStatus.ACTIVE,
    metadata={},
    version=3,
    created_at=NOW,
    updated_at=NOW,
)
REDEMPTION = Redemption(
    id=bytes(range(16)),
    coupon_id=1,
    code="GOLD20",
    customer_id="ann",
    order_id="o-1",
    status=RedemptionStatus.CONFIRMED,
    seat=7,
    expires_at=None,
    created_at=NOW,
    confirmed_at=NOW,
    ended_at=None,
    end_reason=None,
)


def key_of(number: int, *scopes: Scope, expires_at: datetime | None = None) -> ApiKey:
    """A key in force."""
    return ApiKey(number, f"key-{number}", frozenset(scopes), NOW, expires_at, None, None)


class FakeKeys:
    """Knows the digests in `keys`; `failure` is raised instead of an answer. `asked` holds each call's digests."""

    def __init__(self) -> None:
        self.keys = {
            digest(KEY): key_of(1, Scope.ADMIN),
            digest(READER): key_of(2, Scope.READ),
            digest(CASHIER): key_of(3, Scope.REDEEM),
        }
        self.asked: list[list[bytes]] = []
        self.touched: list[dict[int, datetime]] = []
        self.failure: Exception | None = None
        self.hangs = False

    async def find(self, digests: Sequence[bytes], deadline: float) -> dict[bytes, ApiKey]:  # noqa: ARG002
        self.asked.append(list(digests))
        await asyncio.sleep(3600 if self.hangs else 0.001)
        if self.failure:
            raise self.failure
        return {one: self.keys[one] for one in digests if one in self.keys}

    async def touch(self, used_at: dict[int, datetime], deadline: float) -> None:  # noqa: ARG002
        self.touched.append(used_at)


class FakeCoupons:
    """One coupon, and what was done to it."""

    def __init__(self) -> None:
        self.coupon: Coupon | None = COUPON
        self.calls: list[tuple[str, Any]] = []
        self.failure: Exception | None = None

    async def get(self, code: str, deadline: float) -> Coupon | None:  # noqa: ARG002
        return self.coupon if self.coupon and code == self.coupon.code else None

    async def usage(self, coupon: Coupon, deadline: float) -> Usage:  # noqa: ARG002
        return Usage(reserved=0, confirmed=4, remaining=16, as_of=NOW)

    async def create(self, code: str, **fields: Any) -> Coupon:  # noqa: ANN401 - whatever the gateway takes
        self.calls.append(("create", {"code": code, **fields}))
        if self.failure:
            raise self.failure
        fields.pop("deadline")
        return replace(COUPON, code=code, **fields)

    async def change(self, code: str, changes: dict[str, Any], *, if_version: int | None, deadline: float) -> Coupon:  # noqa: ARG002
        self.calls.append(("change", (code, changes, if_version)))
        if self.failure:
            raise self.failure
        return replace(COUPON, version=COUPON.version + 1, **changes)

    async def find(self, **query: Any) -> list[Coupon]:  # noqa: ANN401
        self.calls.append(("find", query))
        codes = [f"GOLD{number}" for number in range(20, 25) if f"GOLD{number}" > query["after_code"]]
        return [replace(COUPON, code=code) for code in codes][: query["limit"]]


class FakeRedemptions:
    """Five redemptions, newest first."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    async def get(self, redemption_id: bytes, deadline: float) -> Redemption | None:  # noqa: ARG002
        return REDEMPTION if redemption_id == REDEMPTION.id else None

    async def find(self, **query: Any) -> list[Redemption]:  # noqa: ANN401
        self.calls.append(query)
        ids = [bytes(15) + bytes([number]) for number in range(5, 0, -1)]
        return [REDEMPTION._replace(id=one) for one in ids if one < (query["before_id"] or b"\xff")][: query["limit"]]


class FakeRedeemer:
    """Answers every order with `answer`, after `started` was set and `go` is."""

    def __init__(self) -> None:
        self.answer: Redeemed | Exception = Redeemed(Ending.CREATED, REDEMPTION)
        self.orders: list[Order] = []
        self.changed: list[str] = []
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def redeem(self, order: Order, arrived_at: float | None = None) -> Redeemed:  # noqa: ARG002 - as the flow's
        self.orders.append(order)
        self.started.set()
        await self.go.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def coupon_changed(self, code: str) -> None:
        self.changed.append(code)


class FakeStore:
    """A store that is up, fails, or hangs."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.hangs = False
        self.asked = 0

    async def ping(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if self.failure:
            raise self.failure

    check_schema = ping


@dataclass
class Served:
    """The API, listening, and the fakes behind it."""

    port: int
    stop: asyncio.Event
    keys: FakeKeys = field(default_factory=FakeKeys)
    coupons: FakeCoupons = field(default_factory=FakeCoupons)
    redemptions: FakeRedemptions = field(default_factory=FakeRedemptions)
    redeemer: FakeRedeemer = field(default_factory=FakeRedeemer)
    ledger: FakeStore = field(default_factory=FakeStore)
    redis: FakeStore = field(default_factory=FakeStore)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Gateways:
    """What the handlers take for the ledger."""

    coupons: FakeCoupons
    redemptions: FakeRedemptions


@contextlib.asynccontextmanager
async def serving(settings: Settings | None = None) -> AsyncIterator[Served]:
    """Serves until the block ends."""
    bound = socket.create_server(("127.0.0.1", free_port()))
    served = Served(bound.getsockname()[1], asyncio.Event())
    app = application(settings or Settings())
    gateways: Any = Gateways(served.coupons, served.redemptions)
    authenticator = Authenticator(served.keys, lambda: NOW)
    app[LEDGER] = gateways
    app[REDEEMER] = served.redeemer
    app[READINESS] = Readiness(served.ledger, served.redis)
    app[AUTHENTICATOR] = authenticator
    authenticator.start()
    task = asyncio.create_task(serve(app, [bound], served.stop))
    await asyncio.sleep(0)
    try:
        yield served
    finally:
        served.redeemer.go.set()
        served.stop.set()
        await task
        await authenticator.stop()
