"""Several `usher-reconciler run`: one leads, and another one takes over from it, however it ends."""

import os
import signal
import time

import pytest

from tests.acceptance.conftest import MakeCoupon, StartReconciler
from tests.acceptance.test_expiry import HOLDS, expired, overdue_holds
from tests.driver import Client
from tests.reconciler_process import Reconciler
from tests.stores import Admin
from tests.waiting import until

TAKEN_OVER_S = 10.0
"""Promised after a SIGKILL; stated, and not measured, since a busy machine needs a second of it to start a process."""


async def two(start_reconciler: StartReconciler) -> tuple[Reconciler, Reconciler]:
    """One that leads, and one that stands by."""
    leader = start_reconciler()
    await until(lambda: leader.leads, what="the first one leads")
    other = start_reconciler()
    await until(lambda: bool(other.events()), what="the second one runs")
    return leader, other


def row(admin: Admin) -> str:
    """Who leads, by the table."""
    name: str = admin.value("SELECT name FROM leader")
    return name


async def test_a_leader_that_is_killed(
    client: Client, coupon: MakeCoupon, admin: Admin, start_reconciler: StartReconciler
) -> None:
    """Within 10 s the other one leads, and does what there is to do."""
    code = await coupon(max_redemptions=HOLDS)
    leader, other = await two(start_reconciler)
    assert row(admin).endswith(f":{leader.kept.pid}")
    await overdue_holds(client, admin, code)
    await until(lambda: expired(admin, code) == HOLDS, what="the leader ends holds")
    assert not other.leads
    leader.kept.kill()
    again = await coupon(max_redemptions=HOLDS)
    await overdue_holds(client, admin, again)
    await until(lambda: other.leads, what="the other one leads", timeout_s=TAKEN_OVER_S)
    await until(lambda: expired(admin, again) == HOLDS, what="and ends holds")
    assert row(admin).endswith(f":{other.kept.pid}")


async def test_a_leader_that_is_told_to_stop(admin: Admin, start_reconciler: StartReconciler) -> None:
    """It hands over in good order, and none leads beside another."""
    leader, other = await two(start_reconciler)
    os.kill(leader.kept.pid, signal.SIGTERM)
    await until(lambda: other.leads, what="the other one leads")
    await until(lambda: not leader.kept.running, what="the first one has ended")
    assert 0 == leader.kept.exit_status
    assert ["info the reconciler runs", "info this reconciler leads", "info stopped"] == leader.events()
    assert row(admin).endswith(f":{other.kept.pid}")


async def test_a_leader_whose_session_was_ended(admin: Admin, start_reconciler: StartReconciler) -> None:
    """By an administrator, or since the server was restarted: exactly one of them leads then."""
    reconcilers = await two(start_reconciler)
    since = admin.value("SELECT since FROM leader")
    admin.kill(admin.value("SELECT session_id FROM leader"))
    await until(lambda: admin.value("SELECT since FROM leader") != since, what="somebody has taken over")
    await until(lambda: [one.leads for one in reconcilers].count(True) == 1, what="one leads")
    assert admin.value("SELECT IS_USED_LOCK('usher:usher_leader') = session_id FROM leader")


@pytest.mark.long
async def test_a_leader_that_was_stopped_and_wakes_up(
    client: Client, coupon: MakeCoupon, admin: Admin, start_reconciler: StartReconciler
) -> None:
    """Another one leads after some 10 s of its silence. It finds that out by itself, does nothing more, and stands by."""
    code = await coupon(max_redemptions=HOLDS)
    leader, other = await two(start_reconciler)
    leader.kept.pause()
    begin = time.monotonic()
    await until(lambda: other.leads, what="the other one leads", timeout_s=60)
    assert time.monotonic() - begin > TAKEN_OVER_S / 2, "it was not the silence that made the other one lead"
    await overdue_holds(client, admin, code)
    await until(lambda: expired(admin, code) == HOLDS, what="the other one ends holds")
    leader.kept.resume()
    await until(lambda: not leader.leads, what="the first one knows")
    assert other.leads
    assert row(admin).endswith(f":{other.kept.pid}")
    other.kept.kill()
    await until(lambda: leader.leads, what="the first one leads again")
