"""Addresses and supervision, with workers that do nothing but live and die."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local import free_port
from service.errors import AddressUnavailable
from service.workers import RESTART_INTERVAL_S, bind, bound_addresses, close, reserve, resolve

PARENT = """
import os, select, signal, sys, time
from service.workers import Supervisor

def work(place, orphaned):
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}} {{time.monotonic()}}\\n")
    {work}

sys.exit(Supervisor(2, work, {stop_deadline_s}).run())
"""
WAITS = """
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    while not stop and not select.select([orphaned], [], [], 0.01)[0]:
        pass
    return 0
"""
DIES = "return 1"
IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


class Parent:
    """A supervisor of two workers as a process of its own."""

    def __init__(self, folder: Path, work: str, *, stop_deadline_s: float = 10) -> None:
        self.log = folder / "log"
        program = PARENT.format(log=str(self.log), work=work, stop_deadline_s=stop_deadline_s)
        self.process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)

    def started(self) -> list[tuple[int, float]]:
        """Each worker ever started: its number and when."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(pid), float(at)) for pid, at in (line.split() for line in lines)]

    def children(self) -> list[int]:
        """The workers that live."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def within(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Whether it becomes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    one = Parent(tmp_path, WAITS)
    assert within(lambda: len(one.started()) == 2)
    return one


def test_a_worker_that_dies_is_started_again(parent: Parent) -> None:
    """Within a second, as often as it takes, and the workers are the only children."""
    time.sleep(0.5)
    for count in (3, 4, 5):
        victim = parent.children()[0]
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        assert within(lambda count=count: len(parent.started()) == count)  # type: ignore[misc]
        assert parent.started()[-1][1] - killed_at < 1
        assert within(lambda victim=victim: victim not in parent.children() and len(parent.children()) == 2)  # type: ignore[misc]
    parent.process.terminate()
    assert 0 == parent.process.wait(10)


def test_workers_that_die_at_once_are_not_started_in_a_busy_loop(tmp_path: Path) -> None:
    """Each some twice a second, for ever."""
    parent = Parent(tmp_path, DIES)
    assert within(lambda: len(parent.started()) >= 8)
    begun_at = sorted(at for _, at in parent.started()[:8])
    # Two at first, and each again after the interval; a worker needs a moment to come to the line that tells when.
    assert begun_at[-1] - begun_at[0] > 3 * RESTART_INTERVAL_S - 0.2
    parent.process.terminate()
    assert 0 == parent.process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(parent: Parent, number: signal.Signals) -> None:
    """Ctrl-C reaches the whole group; SIGTERM the parent alone. The workers end in order either way."""
    pids = parent.children()
    if number == signal.SIGINT:
        os.killpg(parent.process.pid, number)
    else:
        parent.process.send_signal(number)
    assert 0 == parent.process.wait(10)
    assert [True, True] == [has_ended(pid) for pid in pids]


def test_a_second_signal_ends_them_at_once(tmp_path: Path) -> None:
    parent = Parent(tmp_path, IGNORES)
    assert within(lambda: len(parent.started()) == 2)
    time.sleep(0.1)
    parent.process.terminate()
    time.sleep(0.2)
    assert parent.process.poll() is None
    parent.process.terminate()
    assert 1 == parent.process.wait(5)


def test_workers_that_do_not_stop_are_killed(tmp_path: Path) -> None:
    """After the stop deadline and a grace."""
    parent = Parent(tmp_path, IGNORES, stop_deadline_s=-2.5)
    assert within(lambda: len(parent.started()) == 2)
    time.sleep(0.1)
    parent.process.terminate()
    assert 1 == parent.process.wait(5)


def test_workers_notice_that_their_parent_is_gone(parent: Parent) -> None:
    pids = parent.children()
    parent.process.kill()
    parent.process.wait()
    assert within(lambda: all(has_ended(pid) for pid in pids))


# --- Addresses ------------------------------------------------------------------------------------------------------


def test_a_port_in_use() -> None:
    """Said in one line that names it, whether it is to be shared or not."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port), reuse_port=True):
        for take in (lambda one: bind(one, shared=False), reserve):
            with pytest.raises(AddressUnavailable) as raised:
                take(resolve("127.0.0.1", port))
            expected = f"port {port} on 127.0.0.1 is in use; choose another with --port or USHER_LISTEN_PORT"
            assert expected == str(raised.value)


def test_a_reserved_port_is_shared_by_workers_and_answers_nobody() -> None:
    port = free_port()
    reserved = reserve(resolve("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    workers = bind(bound_addresses(reserved), shared=True) + bind(bound_addresses(reserved), shared=True)
    for worker in workers:
        worker.listen()
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    assert select.select(workers, [], [], 1)[0]
    close([*reserved, *workers])


def test_port_0_is_one_port_for_all() -> None:
    reserved = reserve(resolve("127.0.0.1", 0))
    (address,) = bound_addresses(reserved)
    (worker,) = bind([address], shared=True)
    assert address.port == worker.getsockname()[1] != 0
    close([*reserved, worker])


def test_an_address_that_is_none() -> None:
    with pytest.raises(AddressUnavailable, match="no address"):
        resolve("no such host.invalid", 80)
    with pytest.raises(AddressUnavailable, match="cannot be had"):
        bind(resolve("192.0.2.1", 8080), shared=False)
