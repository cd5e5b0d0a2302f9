"""check, repair and reseed by hand: the same jobs, at once, and without leading, since they are safe beside each other."""

import asyncio
import contextlib
import os
import pwd
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

import uuid_utils

from reconciler import terminal
from reconciler.carrying import STOPPED, Carrier, Following, Result
from service import errors
from service.addresses import address
from service.config import Settings
from service.counters import Counters
from service.explaining import explain_ledger, explain_redis
from service.ledger import Ledger
from service.model import CODE_PATTERN
from service.printing import printable
from service.reconciling import Cause, Kind, Mode, Run, RunStatus

FOUND_STATUS: Final = 1
COULD_NOT: Final = 2
KILLED_STATUS: Final = 1
DEADLINE_S: Final = 10.0
"""For one statement of a command; a person waits."""
WHO_MAX_CHARS: Final = 128
"""Of who has asked, in the stored run."""
OVERSOLD: Final = (
    "oversold cannot be mended by a repair: the ledger itself has a use too many; docs/runbook.md, Oversold, says what to do"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody has typed. `code` None: all coupons."""

    mode: Mode
    code: str | None
    force: bool = False
    as_json: bool = False


def carry_out(settings: Settings, asked: Asked) -> tuple[int, str | None]:
    """Carries out what was asked for, and prints what it found; the exit status, and what went wrong, in words.

    Raises UsherError where it could not begin.
    """
    return asyncio.run(_carry_out(settings, asked))


async def _carry_out(settings: Settings, asked: Asked) -> tuple[int, str | None]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _on_signal, stop)
    async with _gateways(settings) as (ledger, counters):
        try:
            run = await _begin(ledger, asked)
        except (errors.LedgerUnavailable, errors.LedgerContended, errors.LedgerRefusedData) as error:
            raise type(error)(explain_ledger(settings, error, administers=False)) from error
        distance = terminal.Distance()
        findings = terminal.Findings(as_json=asked.as_json, with_notes=asked.code is not None)
        following = Following(told=findings.add, progress=distance.went_on, is_stopping=stop.is_set)
        with distance.shown(asked.mode.value):
            result = await Carrier(ledger, counters).carry_out(run, following, force=asked.force)
    terminal.show(run, result, findings, as_json=asked.as_json)
    return exit_status(asked.mode, result), _wrong(settings, result, distance)


def exit_status(mode: Mode, result: Result) -> int:
    """By the contract: 0 in order or mended; 1 findings, or some that cannot be mended; 2 it could not be done."""
    if result.status is RunStatus.FAILED:
        return COULD_NOT
    left = {Mode.CHECK: result.finding_count, Mode.REPAIR: result.not_mended, Mode.RESEED: 0}[mode]
    return FOUND_STATUS if left else 0


def _wrong(settings: Settings, result: Result, distance: terminal.Distance) -> str | None:
    """What went wrong, or what else to know; None: nothing."""
    if result.status is RunStatus.DONE:
        return OVERSOLD if Kind.OVERSOLD in result.counts else result.notice
    far = f"It had come to {distance.percent:.0f} %."
    match result.cause:
        case errors.CounterUnavailable():
            why = explain_redis(settings, result.cause)
        case errors.UsherError():
            why = explain_ledger(settings, result.cause, administers=False)
        case _:
            why = f"{result.error}."
    kept = " What it had found until then is shown, and stored." if result.error == STOPPED else ""
    return f"{why} {far}{kept}"


async def _begin(ledger: Ledger, asked: Asked) -> Run:
    """The run, stored as one that runs. Raises CouponNotFound, and what the ledger raises."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    code = None if asked.code is None else asked.code.strip().upper()
    if code is not None and (not re.fullmatch(CODE_PATTERN, code) or await ledger.coupons.get(code, deadline) is None):
        raise errors.CouponNotFound(f"there is no coupon {printable(code) or 'without a name'}; `usher coupon list` shows all")
    now = ledger.now()
    run = Run(
        uuid_utils.uuid7().bytes, asked.mode, code, RunStatus.RUNNING, Cause.ASKED, asked_by=_who(), asked_at=now, begun_at=now
    )
    await ledger.runs.begin(run, deadline)
    return run


def _who() -> str:
    """Who asks, for the stored run: this process' user, by name where it has one, and this host."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # In a container, say.
        name = str(uid)
    return f"{printable(name)}@{socket.gethostname()}"[:WHO_MAX_CHARS]


@asynccontextmanager
async def _gateways(settings: Settings) -> AsyncIterator[tuple[Ledger, Counters]]:
    """Both stores, which answer. Raises an error that names the one that does not, where it is, and what to try."""
    ledger = await Ledger.connect(settings)
    counters = await Counters.connect(settings)
    try:
        try:
            await counters.breaker.stop()  # A run ends with the first call that fails: the event would only spoil the bar.
            await ledger.check_schema()
            await counters.ping()
        except errors.SchemaNotCurrent as error:
            where = f"The ledger (MariaDB) is at {address(settings.database_url)} (USHER_DATABASE_URL)."
            raise errors.SchemaNotCurrent(f"{error} {where}") from error
        except errors.LedgerUnavailable as error:
            raise type(error)(explain_ledger(settings, error, administers=False)) from error
        except errors.CounterUnavailable as error:
            raise errors.CounterUnavailable(explain_redis(settings, error)) from error
        yield ledger, counters
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await counters.close()
            await ledger.close()


def _on_signal(stop: asyncio.Event) -> None:
    """The first one ends the run after the step at hand, the second one the program."""
    if stop.is_set():
        _end_at_once()
    stop.set()


def _end_at_once() -> NoReturn:
    sys.stderr.flush()
    os._exit(KILLED_STATUS)
