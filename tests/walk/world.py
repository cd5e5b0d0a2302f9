"""What the walk walks in: two services on the same stores, callers with keys of their own, and the stores from behind."""

import http.client
import itertools
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

import redis

from tests.driver import Answer, Json
from tests.faults import Proxy
from tests.stores import Admin
from tests.usher_process import Usher

PARTS = ("counter", "free", "pending", "customers")
ANSWER_TIMEOUT_S = 60.0
MEET_MAX_S = 4.0
"""Until a service asks a Redis again that comes and goes, and until another one searches again after that."""
IDLE_MAX_S = 5.0
"""A connection that was idle for longer may be closed by the service at this very moment: a new one is opened."""


class Timed(NamedTuple):
    """An answer, and between which moments it came about."""

    answer: Answer
    began: datetime
    ended: datetime


class Door:
    """One caller's way to one service: an API key, and a connection that is kept."""

    def __init__(self, usher: Usher, api_key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", usher.port, timeout=ANSWER_TIMEOUT_S)
        self._authorization = {"Authorization": f"Bearer {api_key}"}
        self._used_at = time.monotonic()

    def close(self) -> None:
        self._connection.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        query: Mapping[str, str | int | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Timed:
        """A request and its answer. Members of the query that are None are left out."""
        if time.monotonic() - self._used_at > IDLE_MAX_S:
            self._connection.close()
        wanted = {name: value for name, value in (query or {}).items() if value is not None}
        sent = {**self._authorization, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        began = datetime.now(UTC)
        target = path + ("?" + urlencode(wanted) if wanted else "")
        self._connection.request(method, target, None if body is None else json.dumps(body), sent)
        response = self._connection.getresponse()
        text = response.read()
        self._used_at = time.monotonic()
        return Timed(Answer(response.status, response.headers, json.loads(text), text), began, datetime.now(UTC))  # type: ignore[arg-type]


@dataclass
class World:
    """Shared by all examples; each has coupons and customers of its own, so that nothing has to be emptied.

    Attributes:
        doors: every caller at every service.
        others: for each door, one of another caller at another service, on a connection of its own.
        callers: for each door, whose API key it uses.
        proxies: for each service, its way to Redis.
        unexplained: what the walk at once could not explain, in words.
    """

    ushers: list[Usher]
    api_keys: list[str]
    admin: Admin
    redis: "redis.Redis"
    proxies: list[Proxy]
    doors: list[Door] = field(default_factory=list)
    others: list[Door] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    _parted: set[int] = field(default_factory=set)
    _met_at: float = -10.0
    _examples: "itertools.count[int]" = field(default_factory=itertools.count)
    _run: str = field(default_factory=lambda: secrets.token_hex(3).upper())

    def __post_init__(self) -> None:
        for usher in self.ushers:
            for number, api_key in enumerate(self.api_keys):
                self.doors.append(Door(usher, api_key))
                self.callers.append(f"caller-{number}")
        for usher in reversed(self.ushers):
            self.others += [Door(usher, api_key) for api_key in reversed(self.api_keys)]

    def new_example(self) -> str:
        """The beginning of all names in an example."""
        return f"WALK-{self._run}-{next(self._examples)}"

    def close(self) -> None:
        for door in [*self.doors, *self.others]:
            door.close()

    # --- From behind -------------------------------------------------------------------------------------------------

    def restart(self, number: int) -> None:
        """SIGKILL and a new start, at the same port."""
        self.ushers[number].kill()
        self.ushers[number].start()
        self.close()

    def part(self, number: int, *, from_redis: bool) -> None:
        """One service does not reach Redis any more, or reaches it again. It asks it again a little later."""
        if from_redis:
            self.proxies[number].refuse()
            self._parted.add(number)
        else:
            self.proxies[number].accept()
            self._parted.discard(number)
        self._met_at = time.monotonic()

    @property
    def is_parted(self) -> bool:
        """Whether a service does not ask Redis, or has not until a moment ago: others are not told what it gives back."""
        return bool(self._parted) or time.monotonic() < self._met_at + MEET_MAX_S

    def make_overdue(self, redemption_id: str) -> datetime:
        """The hold's time is over: since when."""
        digits = redemption_id.replace("-", "")
        self.admin.run("UPDATE redemption SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE id = UNHEX(%s)", digits)
        at: datetime = self.admin.value("SELECT expires_at FROM redemption WHERE id = UNHEX(%s)", digits)
        return at.replace(tzinfo=UTC)

    def flush(self, *, scripts: bool) -> None:
        """FLUSHALL, and SCRIPT FLUSH if asked for."""
        self.redis.flushall()
        if scripts:
            self.redis.script_flush()

    def dump(self, code: str) -> dict[str, bytes | None]:
        """The coupon's keys as they are; None for one that is not there."""
        return {part: self.redis.dump(key(code, part)) for part in PARTS}

    def restore(self, code: str, dump: Mapping[str, bytes | None]) -> None:
        """The coupon's keys as they were."""
        with self.redis.pipeline(transaction=True) as pipe:
            for part, value in dump.items():
                pipe.delete(key(code, part))
                if value is not None:
                    pipe.restore(key(code, part), 0, value)
            pipe.execute()

    def edit(self, code: str, edit: "Edit") -> None:
        """Somebody writes into the coupon's keys by hand. An edit that does not fit what is there does nothing."""
        name = key(code, edit.part)
        kind = self.redis.type(name)
        value = str(int(time.time() * 1_000)).join(edit.value.split("NOW")).encode()
        if edit.how == "delete":
            self.redis.delete(name)
        elif edit.how == "retype":
            self.redis.delete(name)
            self.redis.set(name, value)
        elif edit.how == "add" and kind in (b"set", b"none"):
            self.redis.sadd(name, value)
        elif edit.how == "put" and kind in ((b"hash",) if edit.part == "counter" else (b"hash", b"none")):
            self.redis.hset(name, edit.field, value)


class Edit(NamedTuple):
    """What somebody writes by hand. `NOW` in a value: milliseconds since 1970."""

    part: str
    how: str
    field: str = ""
    value: str = ""


def key(code: str, part: str) -> str:
    return f"usher:1:{{{code}}}:{part}"


FIELDS: dict[str, tuple[Any, ...]] = {
    "next": (0, 1, 2, 3, 5, 1_000_000_000, -5, "abc"),
    "max_redemptions": (0, 1, 9, "many"),
    "max_per_customer": (0, 1, 9, ""),
    "status": ("active", "paused", "archived", "on fire"),
    "starts_at": (0, 9_999_999_999_999),
    "ends_at": (0, 1),
    "version": (1, 2, 999, "x"),
    "loaded": ("NOW", 0),
    "searched": (0, "NOW", 9_999_999_999_999),
    "coupon_id": (1, "x"),
}
EDITS = (
    *(Edit("counter", "put", name, str(value)) for name, values in FIELDS.items() for value in values),
    *(Edit("free", "add", value=str(seat)) for seat in (0, 1, 2, 3, 4, 5, 999, "abc")),
    *(Edit("pending", "put", order, f"{seat} {seat} NOW") for order in ("order-1", "order-2") for seat in (0, 1, 2, 3)),
    *(Edit("pending", "put", "order-3", value) for value in ("9 9 9999999999999", "1 1 1", "abc")),
    *(Edit("customers", "put", customer, value) for customer in ("ann", "bob") for value in ("0", "1", "9", "-1", "abc")),
    *(Edit(part, how, value="7") for part in PARTS for how in ("delete", "retype")),
)
