"""`make run` and `make down`: the whole service on one machine, for trying it and for working on it.

`up` sets up what is missing, starts the stores (or takes those of `USHER_DATABASE_URL` and `USHER_REDIS_URL`),
migrates, makes a demo coupon and a demo key, serves, with the reconciler beside it, and prints a curl line. Everything it
starts ends with it.

The folder `.local/run` is locked while anything of a run is alive: every process of it holds the lock file open. So one
look tells whether a run is there, and whoever holds that file is known to be part of it.
"""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from deploy import bootstrap
from deploy.instance import kept_password
from deploy.kept import Kept
from deploy.listening import Address, ListenError, listen_address
from deploy.local import MariaDB, Redis, Store, StoreError, write_private
from deploy.programs import LOCAL, PROJECT, Program, ProgramMissingError, say
from deploy.terminal import own_foreground, stop_signals_interrupt

RUN = LOCAL / "run"
LOCK = RUN / "lock"
KEY = RUN / "demo-key"
ENVIRONMENT = RUN / "env"
USHER = PROJECT / ".venv" / "bin" / "usher"
RECONCILER = USHER.with_name("usher-reconciler")
PORT = "USHER_RECONCILER_LISTEN_PORT"

COUPON = "GOLD20"
COUPON_LIMITS = ("--max-redemptions", "20", "--max-per-customer", "1")

READY_TIMEOUT_S = 30.0
"""The service needs a second; a MariaDB elsewhere may have to be woken up."""

SERVICE_GRACE_S = 40.0
"""The service and the reconciler finish what they have begun, which their own deadlines bound well below this."""

LEFT_OVER_TIMEOUT_S = 45.0
"""What a killed run left ends by itself: the service within its grace, then the stores."""

DOWN_TIMEOUT_S = SERVICE_GRACE_S + 60.0
SIGNALLED = 128
"""Above it, an exit status is a signal's number."""
POLL_S = 0.1
WATCH_S = 0.5
HTTP_TIMEOUT_S = 5.0

CHECK_SETTINGS = """
import sys
from service import config, errors
try:
    config.load()
except errors.ConfigurationError as error:
    sys.exit(str(error))
"""
"""Run by the environment's Python; this program has to do without packages until they are installed."""


class RunError(Exception):
    """The service cannot be run; the message is for the person at the terminal."""


def up() -> int:
    """Runs everything until it is told to stop; returns the exit status: 0 when it was told to after it had served."""
    serving = False
    RUN.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with own_foreground(), stop_signals_interrupt(), ExitStack() as stack:
            lock = stack.enter_context(the_only_run())
            address = listen_address()
            bootstrap.ensure()
            check_settings()
            variables, private = stores(stack, lock)
            variables["USHER_LOG_HASH_KEY"] = log_hash_key()
            operator_urls = [store.operator_url for store in private if isinstance(store, Redis)]
            write_private(ENVIRONMENT, environment_file(variables, *operator_urls))
            usher(variables, "migrate")
            ensure_coupon(variables)
            service = serve(stack, variables, lock)
            wait_until_ready(service, address)
            reconciler = reconcile(stack, variables, lock)
            ensure_key(variables, address)
            print_welcome(variables, address)
            serving = True
            wait_until_one_ends({"usher serve": service, "usher-reconciler run": reconciler}, private)
    except KeyboardInterrupt:
        say("ended" if serving else "interrupted; the next run goes on from here")
        return 0 if serving else 130


def wait_until_one_ends(programs: Mapping[str, Kept], private: Sequence[Store]) -> NoReturn:
    """Watches what has been started; `programs` by what is typed to start them.

    Raises:
        RunError: one of the programs or of the run's own stores ended by itself.
    """
    while all(program.running for program in programs.values()):
        for store in private:
            if not store.running:
                raise RunError(
                    f"{type(store).__name__} ended by itself; its log is {store.log}. "
                    "`make run` starts everything again: what the ledger has acknowledged is kept"
                )
        time.sleep(WATCH_S)
    name, ended = next((name, program) for name, program in programs.items() if not program.running)
    raise RunError(
        f"{name} ended, {_how(ended.exit_status)}, so everything else was stopped; what it said before is above. "
        "`make run` starts everything again: what the ledger has acknowledged is kept"
    )


def _how(status: int | None) -> str:
    """How a program ended, by its exit status; above 128 it was a signal."""
    if status is not None and status > SIGNALLED and status - SIGNALLED in set(signal.Signals):
        return f"killed by {signal.Signals(status - SIGNALLED).name}"
    return f"by itself, with status {status}"


def environment_file(variables: Mapping[str, str], redis_operator_url: str | None = None) -> str:
    """What a shell sources to use `usher` with the stores of this run, and to look into Redis as its operator."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines.append(f"export PATH={shlex.quote(str(USHER.parent))}:$PATH")
    if redis_operator_url:
        lines.append('# For people, as in redis-cli -u "$REDIS_OPERATOR_URL"; the service does not know it.')
        lines.append(f"export REDIS_OPERATOR_URL={shlex.quote(redis_operator_url)}")
    return "\n".join([*lines, ""])


def down() -> int:
    """Ends a run that is there, whatever became of the terminal it was started from."""
    RUN.mkdir(parents=True, exist_ok=True, mode=0o700)
    with LOCK.open("a+") as lock:
        if _try_lock(lock.fileno()):
            say("nothing is running")
            return 0
        owner = _owner()
        if owner is not None:
            os.kill(owner, signal.SIGTERM)
        if not _wait_for_lock(lock.fileno(), DOWN_TIMEOUT_S):
            _kill_holders()
            _wait_for_lock(lock.fileno(), LEFT_OVER_TIMEOUT_S)
    say("ended")
    return 0


@contextmanager
def the_only_run() -> Iterator[int]:
    """Holds the lock of `.local/run`; yields its descriptor, to be handed down to every process of the run.

    Raises:
        RunError: another run is there.
    """
    with LOCK.open("a+") as lock:
        if not _try_lock(lock.fileno()):
            owner = _owner()
            if owner is not None:
                raise RunError(f"it is running already (process {owner}); `make down` ends it")
            say("waiting for what an earlier run left to end")
            if not _wait_for_lock(lock.fileno(), LEFT_OVER_TIMEOUT_S):
                _kill_holders()
                _wait_for_lock(lock.fileno(), LEFT_OVER_TIMEOUT_S)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(descriptor: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _holders() -> set[int]:
    """The processes that have the lock file open, this one excepted: all of them belong to a run of this checkout."""
    wanted = LOCK.stat()
    holders = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found = descriptor.stat()
        except OSError:
            continue  # It has just ended, or is somebody else's.
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            holders.add(int(descriptor.parts[2]))
    return holders - {os.getpid()}


def _owner() -> int | None:
    """The process number of the `make run` that is there; None if only what it started is left."""
    text = LOCK.read_text()
    return int(text) if text.isdigit() and int(text) in _holders() else None


def _kill_holders() -> None:
    for pid in _holders():
        os.kill(pid, signal.SIGKILL)


def check_settings() -> None:
    """Looks at every `USHER_…` variable before anything is started.

    Raises:
        RunError: one has a value that the service would refuse; the message is the service's own.
    """
    python = USHER.with_name("python")
    done = subprocess.run([python, "-c", CHECK_SETTINGS], cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.strip())


def stores(stack: ExitStack, lock: int) -> tuple[dict[str, str], list[Store]]:
    """The two stores' addresses as variables, given in the environment or of private stores; and those, started here."""
    variables = {}
    private: list[Store] = []
    # As everywhere, an empty variable counts as one that is not set.
    database = given("USHER_DATABASE_URL", RUN / "mariadb" / "password")
    redis = given("USHER_REDIS_URL", RUN / "redis" / "password")
    if not database:
        mariadb = stack.enter_context(MariaDB(RUN / "mariadb", hand_down=[lock]))
        private.append(mariadb)
        database = mariadb.url
        # One that is set for another database must not be migrated by accident.
        variables["USHER_MIGRATION_DATABASE_URL"] = mariadb.migration_url
    elif os.environ.get("USHER_MIGRATION_DATABASE_URL"):
        variables["USHER_MIGRATION_DATABASE_URL"] = os.environ["USHER_MIGRATION_DATABASE_URL"]
    if not redis:
        counters = stack.enter_context(Redis(RUN / "redis", hand_down=[lock]))
        private.append(counters)
        redis = counters.url
    return {"USHER_DATABASE_URL": database, "USHER_REDIS_URL": redis, **variables}, private


def given(name: str, password: Path) -> str | None:
    """A store's address from the environment, unless it is that of a run's own store, whose password is kept in this file.

    A shell that has sourced a run's environment file does not mean a store that is there without a run.
    """
    url = os.environ.get(name)
    return None if url and password.exists() and password.read_text(encoding="utf-8") in url else url


def log_hash_key() -> str:
    """The one that is set, or the run's own, so that `usher log-hash` in another terminal finds what its service logs."""
    return os.environ.get("USHER_LOG_HASH_KEY") or kept_password(RUN / "log-hash-key")


def usher(variables: Mapping[str, str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command of `usher`; its logs go to the terminal when it fails.

    Raises:
        RunError: it failed, and `check` was not switched off.
    """
    done = subprocess.run(
        [USHER, *arguments],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        raise RunError(f"`usher {arguments[0]}` failed; its words are above")
    return done


def ensure_coupon(variables: Mapping[str, str]) -> None:
    """Makes the demo coupon unless the ledger has it."""
    if usher(variables, "coupon", "show", COUPON, check=False).returncode != 0:
        usher(variables, "coupon", "create", COUPON, *COUPON_LIMITS)


def serve(stack: ExitStack, variables: Mapping[str, str], lock: int) -> Kept:
    """Starts the service; it is stopped before the stores are."""
    program = Program(USHER, "usher", environment=variables)
    service = Kept(program, ["serve"], folder=PROJECT, grace_s=SERVICE_GRACE_S, hand_down=[lock])
    stack.callback(service.stop)
    return service


def reconcile(stack: ExitStack, variables: Mapping[str, str], lock: int) -> Kept:
    """Starts the reconciler, on a port of the system's choice unless one is set; it is stopped before the service is."""
    program = Program(RECONCILER, "usher-reconciler", environment={**variables, PORT: os.environ.get(PORT) or "0"})
    reconciler = Kept(program, ["run"], folder=PROJECT, grace_s=SERVICE_GRACE_S, hand_down=[lock])
    stack.callback(reconciler.stop)
    return reconciler


def wait_until_ready(service: Kept, address: Address) -> None:
    """Returns when `/readyz` says 200.

    Raises:
        RunError: the service ended, or was not ready in time.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while service.running:
        if _get(f"{address.url}/readyz")[0] == 200:  # noqa: PLR2004 - HTTP's "OK"
            return
        if time.monotonic() > deadline:
            raise RunError(f"the service was not ready after {READY_TIMEOUT_S:.0f} s; see {address.url}/readyz")
        time.sleep(POLL_S)
    raise RunError(f"usher serve ended with status {service.exit_status}; its last words are above")


def ensure_key(variables: Mapping[str, str], address: Address) -> None:
    """Keeps the demo key if the service takes it, otherwise makes a new one."""
    if KEY.exists() and _get(f"{address.url}/v1/coupons/{COUPON}", KEY.read_text().strip())[0] == 200:  # noqa: PLR2004
        return
    # A name of its own each time: an earlier demo key, whose text was lost, keeps the one that it has.
    created = usher(variables, "key", "create", "--name", f"demo-{time.time_ns():x}", "--scope", "admin")
    write_private(KEY, created.stdout)


def _get(url: str, key: str | None = None) -> tuple[int, bytes]:
    """The status and body of a GET; status 0 when there was no answer."""
    request = urllib.request.Request(url)  # noqa: S310 - the address is this program's own
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        # No proxy: it would be asked for this machine's own address.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=HTTP_TIMEOUT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()
    except (OSError, ValueError):
        return 0, b""


def print_welcome(variables: Mapping[str, str], address: Address) -> None:
    """Prints what a newcomer needs next: a curl line, and where the stores are (without passwords)."""
    status, body = _get(f"{address.url}/v1/coupons/{COUPON}", KEY.read_text().strip())
    remaining = json.loads(body)["usage"]["remaining"] if status == 200 else None  # noqa: PLR2004
    # Both names are made when the line is pasted, so each paste is another customer's other order.
    data = json.dumps({"code": COUPON, "customer_id": "customer-$(date +%s%N)", "order_id": "order-$(date +%s%N)"})
    curl = " ".join(
        [
            f"curl -sS -i {address.url}/v1/redemptions -H 'Content-Type: application/json'",
            f'-H "Authorization: Bearer $(cat {shlex.quote(str(KEY))})"',
            '-d "' + data.replace('"', '\\"') + '"',
        ]
    )
    database, redis = (urlsplit(variables[name]) for name in ("USHER_DATABASE_URL", "USHER_REDIS_URL"))
    mariadb = f"{database.hostname}:{database.port or 3306}, database {database.path.lstrip('/')}"
    lines = [
        "",
        f"Usher serves on {address.url} (Ctrl-C ends it). Redeem {COUPON}, each time as a new customer:",
        "",
        f"  {curl}",
        "",
        f"{COUPON}: {remaining} uses left.",
        f"MariaDB: {mariadb}. Redis: {redis.hostname}:{redis.port or 6379}.",
        f"For `usher` and clients in another terminal: . {shlex.quote(str(ENVIRONMENT))}",
        "",
    ]
    if remaining == 0:
        lines.insert(-3, f"For more: . {shlex.quote(str(ENVIRONMENT))} && usher coupon update {COUPON} --max-redemptions 100")
    print("\n".join(lines), flush=True)


def main(arguments: list[str]) -> int:
    """`up` or `down`."""
    commands = {"up": up, "down": down}
    if len(arguments) != 1 or arguments[0] not in commands:
        say("usage: python -m deploy.run up | down")
        return 2
    try:
        return commands[arguments[0]]()
    except (RunError, ListenError, StoreError, ProgramMissingError, bootstrap.BootstrapError) as failed:
        say(str(failed))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
