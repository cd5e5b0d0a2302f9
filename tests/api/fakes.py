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
from service.api.parts import AUTHENTICATOR, COUNTS, LEDGER, LIFE, METRICS, READINESS, REDEEMER, VALIDATIONS
from service.api.readiness import Readiness
from service.api.server import serve
from service.config import Settings
from service.ledger.coupon_changes import CHANGEABLE, Change
from service.ledger.keys import digest
from service.metrics import Metrics
from service.model import (
    ApiKey,
    Coupon,
    CouponStatus,
    CouponVersion,
    Ending,
    Order,
    Redeemed,
    Redemption,
    RedemptionStatus,
    Scope,
    Usage,
)
from service.reconciling import Cause, Finding, Kind, Leader, Mode, Run, RunStatus
from service.transition import Transition, Transitioned, TransitionEnding
from service.validations import Validated, Validation

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
RUN = Run(
    id=bytes(range(16)),
    mode=Mode.REPAIR,
    code="GOLD20",
    status=RunStatus.FAILED,
    cause=Cause.ASKED,
    asked_by="office",
    asked_at=NOW,
    run_by="db-3:17",
    begun_at=NOW,
    ended_at=NOW,
    coupons_checked=1,
    finding_count=2,
    error="Redis is away",
)
FINDING = Finding("GOLD20", Kind.LEAKED, "handed out", "free", seat=7)
LEADER = Leader("db-3:17", NOW)


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
    """One coupon, and what was done to it. `deadlines`: until when each writing might take, in the loop's seconds."""

    def __init__(self) -> None:
        self.coupon: Coupon | None = COUPON
        self.calls: list[tuple[str, Any]] = []
        self.deadlines: list[float] = []
        self.failure: Exception | None = None

    async def get(self, code: str, deadline: float) -> Coupon | None:  # noqa: ARG002
        return self.coupon if self.coupon and code == self.coupon.code else None

    async def usage(self, coupon: Coupon, deadline: float) -> Usage:  # noqa: ARG002
        return Usage(reserved=0, confirmed=4, remaining=16, as_of=NOW)

    async def create(self, code: str, **fields: Any) -> Coupon:  # noqa: ANN401 - whatever the gateway takes
        self.calls.append(("create", {"code": code, **fields}))
        self.deadlines.append(fields["deadline"])
        if self.failure:
            raise self.failure
        return replace(COUPON, code=code, **{name: value for name, value in fields.items() if name in CHANGEABLE})

    async def change(self, change: Change, deadline: float) -> Coupon:
        self.calls.append(("change", change))
        self.deadlines.append(deadline)
        if self.failure:
            raise self.failure
        return replace(COUPON, version=COUPON.version + 1, **change.fields)

    async def history(self, code: str, **query: Any) -> list[CouponVersion]:  # noqa: ANN401
        self.calls.append(("history", {"code": code, **query}))
        return [CouponVersion(1, NOW, "office", None, {"status": "active"})] if self.coupon else []

    async def find(self, **query: Any) -> list[Coupon]:  # noqa: ANN401
        self.calls.append(("find", query))
        codes = [f"GOLD{number}" for number in range(20, 25) if f"GOLD{number}" > query["after_code"]]
        return [replace(COUPON, code=code) for code in codes][: query["limit"]]


class FakeRuns:
    """One run with its findings, five in a list, and who leads. `failure`: of storing a wish."""

    def __init__(self) -> None:
        self.run = RUN
        self.found = [FINDING]
        self.leading: Leader | None = LEADER
        self.wishes: list[Run] = []
        self.limits: list[int] = []
        self.failure: Exception | None = None

    async def queue(self, run: Run, deadline: float) -> Run:  # noqa: ARG002
        self.wishes.append(run)
        if self.failure:
            raise self.failure
        return run

    async def get(self, run_id: bytes, deadline: float) -> Run | None:  # noqa: ARG002
        return self.run if run_id == self.run.id else None

    async def findings(self, run_id: bytes, *, limit: int, deadline: float) -> list[Finding]:  # noqa: ARG002
        self.limits.append(limit)
        return self.found[:limit]

    async def find(self, *, before_id: bytes | None, limit: int, deadline: float) -> list[Run]:  # noqa: ARG002
        ids = [bytes(15) + bytes([number]) for number in range(5, 0, -1)]
        return [replace(RUN, id=one) for one in ids if one < (before_id or b"\xff")][:limit]

    async def leader(self, deadline: float) -> Leader | None:  # noqa: ARG002
        return self.leading


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
    """Answers every order with `answer`, after `started` was set and `go` is. `failure`: of looking for live redemptions."""

    def __init__(self) -> None:
        self.answer: Redeemed | Exception = Redeemed(Ending.CREATED, REDEMPTION)
        self.orders: list[Order] = []
        self.changed: list[str] = []
        self.failure: Exception | None = None
        self.hangs = False
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

    async def find_live(self, code: str, order_id: str, until: float) -> bytes | None:  # noqa: ARG002
        if self.failure:
            raise self.failure
        return REDEMPTION.id if (code, order_id) == (REDEMPTION.code, REDEMPTION.order_id) else None

    async def coupon_changed(self, code: str) -> None:
        self.changed.append(code)
        await asyncio.sleep(3600 if self.hangs else 0)


class FakeLife:
    """Ends every transition as `ending`. `deadlines`: until when each wish might take, in the loop's seconds."""

    def __init__(self) -> None:
        self.ending = TransitionEnding.DONE
        self.wishes: list[Transition] = []
        self.deadlines: list[float] = []

    async def carry_out(self, wish: Transition, until: float) -> Transitioned:
        self.wishes.append(wish)
        self.deadlines.append(until)
        return Transitioned(self.ending, REDEMPTION)


class FakeValidations:
    """Answers every question with `answer`."""

    def __init__(self) -> None:
        self.answer = Validated(None, 3)
        self.questions: list[Validation] = []

    async def validate(self, question: Validation, arrived_at: float) -> Validated:  # noqa: ARG002 - as Validations'
        self.questions.append(question)
        return self.answer


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
    runs: FakeRuns = field(default_factory=FakeRuns)
    redeemer: FakeRedeemer = field(default_factory=FakeRedeemer)
    life: FakeLife = field(default_factory=FakeLife)
    validations: FakeValidations = field(default_factory=FakeValidations)
    ledger: FakeStore = field(default_factory=FakeStore)
    redis: FakeStore = field(default_factory=FakeStore)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Gateways:
    """What the handlers take for the ledger."""

    coupons: FakeCoupons
    coupon_changes: FakeCoupons
    redemptions: FakeRedemptions
    runs: FakeRuns

    def now(self) -> datetime:
        """The ledger's clock stands."""
        return NOW


@contextlib.asynccontextmanager
async def serving(settings: Settings | None = None) -> AsyncIterator[Served]:
    """Serves until the block ends."""
    bound = socket.create_server(("127.0.0.1", free_port()))
    served = Served(bound.getsockname()[1], asyncio.Event())
    app = application(settings or Settings())
    gateways: Any = Gateways(served.coupons, served.coupons, served.redemptions, served.runs)
    authenticator = Authenticator(served.keys, lambda: NOW)
    app[METRICS] = Metrics(app[COUNTS])
    app[LEDGER] = gateways
    app[REDEEMER] = served.redeemer
    life: Any = served.life
    app[LIFE] = life
    validations: Any = served.validations
    app[VALIDATIONS] = validations
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
