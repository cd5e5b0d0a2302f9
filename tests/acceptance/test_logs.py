"""What Usher writes down: codes, customers, orders, keys and passwords are in no line of it, whatever goes wrong."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from deploy.kept import Kept
from deploy.programs import PROJECT, Program
from service.api.application import application
from service.api.problems import Code
from service.config import Settings
from tests.acceptance.canaries import (
    CODE,
    CUSTOMER,
    HASH_KEY,
    IDEMPOTENCY_KEY,
    LIFE,
    ORDER,
    REASON,
    SENT,
    UNKNOWN_CODE,
    WRONG_KEY,
    Outputs,
    Recorder,
    act,
    cancel_order,
    forms,
    found_in,
    live,
    reserve,
)
from tests.acceptance.conftest import StartUsher, Stores
from tests.acceptance.defective import DEFECTS
from tests.driver import Json, orders
from tests.faults import Proxy, holding
from tests.reconciler_process import Reconciler
from tests.stores import Admin, flush
from tests.usher_process import Finished, Usher, environment, kill, run_usher
from tests.waiting import until, until_async

BODY = {"code": CODE, "customer_id": CUSTOMER, "order_id": ORDER}
TALKATIVE = {"USHER_LOG_LEVEL": "debug", "USHER_REQUEST_DEADLINE_MS": "1000", "USHER_LOG_HASH_KEY": HASH_KEY}
NOT_MET = {Code.OVERLOADED, Code.INTERNAL}
"""Problems that need a queue that is full, or a defect; the last is met by the defective Usher."""


@contextmanager
def standing(port: int) -> Iterator[Proxy]:
    with Proxy(port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def ledger_proxy(stores: Stores) -> Iterator[Proxy]:
    with standing(stores.mariadb.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def redis_proxy(stores: Stores) -> Iterator[Proxy]:
    with standing(stores.redis.port) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["json", "pretty"])
def talkative(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Settings with which a program says as much as it can."""
    return {**TALKATIVE, "USHER_LOG_FORMAT": request.param}


@pytest.fixture(scope="module")
def usher(
    talkative: Mapping[str, str], start_usher: StartUsher, stores: Stores, ledger_proxy: Proxy, redis_proxy: Proxy
) -> Usher:
    return start_usher(
        workers=2,
        database_url=ledger_proxy.url(stores.mariadb.url),
        redis_url=redis_proxy.url(stores.redis.url),
        settings=talkative,
    )


@pytest.fixture
def reconciler(
    talkative: Mapping[str, str], usher: Usher, stores: Stores, ledger_proxy: Proxy, redis_proxy: Proxy, tmp_path: Path
) -> Iterator[Reconciler]:
    """It sweeps beside `usher`."""
    variables = environment(
        database_url=ledger_proxy.url(stores.mariadb.url),
        redis_url=redis_proxy.url(stores.redis.url),
        settings={**talkative, "USHER_EXPIRE_INTERVAL_MS": "100", "USHER_RECONCILER_LISTEN_PORT": "0"},
    )
    assert usher.running
    running = Reconciler(tmp_path / "reconciler", variables)
    yield running
    running.kept.stop()


def secrets_of(stores: Stores) -> list[str]:
    mariadb, store = stores.mariadb, stores.redis
    return [mariadb.password, mariadb.migration_password, store.password, store.operator_password]


class Commands:
    """`usher` as an operator types it, with all that it writes kept."""

    def __init__(self, stores: Stores, outputs: Outputs) -> None:
        self._stores = stores
        self._outputs = outputs

    def run(self, *arguments: str, typed: bool = False, database_url: str = "") -> Finished:
        done = run_usher(
            *arguments,
            database_url=database_url or self._stores.mariadb.url,
            migration_url=database_url or self._stores.mariadb.migration_url,
            redis_url=self._stores.redis.url,
            settings={"USHER_LOG_LEVEL": "debug", "USHER_LOG_HASH_KEY": HASH_KEY},
        )
        if arguments[:2] not in {("key", "create"), ("key", "rotate")}:
            return self._outputs.add_command(" ".join(arguments), done, typed=typed)
        self._outputs.texts[" ".join(arguments)] = done.errors
        return done


@pytest.fixture
async def scenario(
    usher: Usher, reconciler: Reconciler, stores: Stores, ledger_proxy: Proxy, redis_proxy: Proxy, admin: Admin
) -> AsyncIterator[Outputs]:
    """Everything that makes Usher write: each route, refusals, poison, faults of both stores, a dead worker, a stop."""
    for table in ("redemption", "found_key", "coupon", "coupon_history", "guess"):
        admin.run(f"TRUNCATE TABLE {table}")
    flush(stores.redis)
    outputs = Outputs(secrets=secrets_of(stores))
    commands = Commands(stores, outputs)
    name = f"boss-{usher.port}"
    key = outputs.add_key(commands.run("key", "create", "--name", name, "--scope", "admin").check().output.strip())
    reading = outputs.add_key(commands.run("key", "create", "--name", f"{name}-r", "--scope", "read").check().output.strip())
    async with (
        Recorder("the checkout", usher.url, key=key) as client,
        Recorder("a reader", usher.url, key=reading) as reader,
        Recorder("a stranger", usher.url, key=WRONG_KEY) as stranger,
    ):
        for one in (client, reader, stranger):
            await fly(one)
        outputs.texts["raw"] = await asyncio.to_thread(speak_badly, usher.port)
        await harm_ledger(client, stores, ledger_proxy, admin)
        await harm_redis(client, stores, redis_proxy)
        outputs.texts["processes"] = arguments_of(usher.pid, *usher.workers(), reconciler.kept.pid)
        kill(usher.workers()[0])
        await until(lambda: len(usher.workers()) == 2, what="two workers again")
        for one in (client, reader, stranger):
            outputs.add_answers(one)
        met = client.codes | reader.codes | stranger.codes
    assert {str(code) for code in set(Code) - NOT_MET} - met == set()
    await asyncio.to_thread(operate, commands, outputs, name)
    usher.terminate()
    assert 0 == await asyncio.to_thread(usher.wait)
    reconciler.kept.stop()
    outputs.texts |= {"serve": usher.output, "reconciler": reconciler.log.read_text()}
    yield outputs
    usher.start()


async def fly(client: Recorder) -> None:
    """Business of all kinds, with canaries in paths, queries, bodies and headers."""
    await client.create_coupon(CODE, max_redemptions=3, max_per_customer=1, metadata={"note": CUSTOMER})
    await client.create_coupon(CODE)
    await client.create_coupon(f"{CODE}-FEW", max_redemptions=1)
    await client.create_coupon(f"{CODE}-ONE", max_redemptions=9, max_per_customer=1)
    await client.create_coupon(f"{CODE}-LATER", starts_at="2099-01-01T00:00:00Z")
    await client.create_coupon(f"{CODE}-OVER", ends_at="2001-01-01T00:00:00Z")
    for code in (f"{CODE}-FEW", f"{CODE}-LATER", f"{CODE}-OVER", UNKNOWN_CODE):
        await client.redeem_all(code, [(CUSTOMER, ORDER), (CUSTOMER, ORDER), (f"{CUSTOMER}-2", f"{ORDER}-2")])
    await client.redeem_all(CODE, [(f"{CUSTOMER}-{n % 6}", f"{ORDER}-{n % 4}") for n in range(12)])
    await client.redeem(CODE, f"{CUSTOMER}-other", f"{ORDER}-0")
    await client.redeem(f"{CODE}-FEW", f"{CUSTOMER}-other", ORDER)
    for number in range(2):
        await client.redeem(f"{CODE}-ONE", CUSTOMER, f"{ORDER}-{number}")
    await asyncio.gather(*(client.redeem(f"{UNKNOWN_CODE}-{number}", f"{CUSTOMER}-guesser", ORDER) for number in range(30)))
    await live(client)
    await every_route(client)
    await poison(client)
    await client.send("PATCH", f"/v1/coupons/{CODE}", body={"status": "paused", "metadata": {CUSTOMER: ORDER}})
    await client.redeem(CODE, CUSTOMER, f"{ORDER}-paused")
    await client.send(
        "PATCH", f"/v1/coupons/{CODE}", body={"status": "active", "max_redemptions": 1_000, "max_per_customer": 900}
    )


async def every_route(client: Recorder) -> None:
    """Each address with each method, as the router knows them: what is added to it is asked as well."""
    for resource in application(Settings()).router.resources():
        path = resource.canonical.replace("{code}", CODE).replace("{id}", ORDER)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            await asyncio.gather(
                client.send(method, path, headers={"Idempotency-Key": IDEMPOTENCY_KEY}),
                client.send(method, path, body=BODY, params={"customer_id": CUSTOMER}),
            )


async def poison(client: Recorder) -> None:
    """What is refused, by whom it should be."""
    coupon, redemptions = f"/v1/coupons/{CODE}", "/v1/redemptions"
    await client.get(redemptions, code=CODE, customer_id=CUSTOMER, order_id=ORDER)
    await client.get(redemptions, code=CODE, page_token=ORDER)
    await client.get(redemptions, code=CUSTOMER, status=ORDER)
    await client.get("/v1/coupons", prefix=CODE)
    await client.get(f"/{CODE}/{CUSTOMER}")
    await client.send("POST", redemptions, data=f'{{"code": "{CODE}", "{CUSTOMER}": "{ORDER}"'.encode())
    await client.send("POST", redemptions, data=json.dumps({**BODY, "note": CUSTOMER * 2_000}).encode())
    await client.send("POST", redemptions, data=CUSTOMER.encode(), headers={"Content-Type": f"text/{CODE}"})
    await client.send("POST", redemptions, body={**BODY, "order_id": f"{ORDER}\x00", CUSTOMER: 1})
    await client.send("POST", redemptions, body=BODY, headers={"Expect": ORDER})
    await client.send("PATCH", coupon, body={"max_redemptions": 5, "ends_at": CUSTOMER, "status": ORDER})
    await client.send("PATCH", coupon, body={"max_redemptions": None})
    await client.send("PATCH", coupon, body={"metadata": {}}, headers={"If-Match": f'"{ORDER}"'})
    await client.send("PATCH", coupon, body={"metadata": {}}, headers={"If-Match": ORDER})
    async with Recorder("a reader", *client.urls, key=None) as nobody:
        await nobody.send("GET", coupon, headers={"Authorization": f"Basic {ORDER}", "X-Request-Id": f"{CUSTOMER}\t"})
        client.answers += nobody.answers


def speak_badly(port: int) -> str:
    """What is no HTTP, with canaries wherever a parser could quote it; the answers."""
    head = f"POST /v1/redemptions?code={CODE} HTTP/1.1\r\nHost: {ORDER}\r\n"
    requests = [
        f"{CODE}\r\n\r\n",
        f"GET /{CODE} HTTP/{ORDER}\r\n\r\n",
        f"{CODE} /{ORDER} HTTP/1.1\r\n\r\n",
        f"GET /{'x' * 9_000}{CODE} HTTP/1.1\r\n\r\n",
        f"{head}{ORDER} {CUSTOMER}\r\n\r\n",
        f"{head}{CUSTOMER}: 1\r\n\r\n",
        f"{head}Authorization: Bearer {ORDER}\x00\r\n\r\n",
        f"{head}X-Order: {'x' * 9_000}{ORDER}\r\n\r\n",
        f"{head}Content-Length: {ORDER}\r\n\r\n",
        f"{head}Transfer-Encoding: {ORDER}\r\n\r\n",
        f"{head}Transfer-Encoding: chunked\r\n\r\n{ORDER}\r\n",
        f"{head}Content-Length: 3\r\nContent-Length: 7\r\n\r\n{ORDER}",
    ]
    return "\n".join(spoken(port, request.encode()) for request in requests)


def spoken(port: int, request: bytes) -> str:
    """The answer to some bytes; empty if the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := connection.recv(65_536):
                answer += chunk
        except ConnectionError:
            pass  # The server has closed it with bytes unread; what it said before is here.
    return answer.decode(errors="replace")


async def harm_ledger(client: Recorder, stores: Stores, proxy: Proxy, admin: Admin) -> None:
    """What drivers complain about, with statements and values in their messages."""
    for name, statement in (("find", b"where r.id in"), ("write", b"r.status = v.status"), ("commit", b"\x03commit")):
        kept = await reserve(client, f"lost-{name}")
        proxy.lose_reply(holding(statement), times=3)
        await act(client, kept, "cancel", {"reason": REASON})
        proxy.heal()
    proxy.lose_reply(holding(b"insert into redemption"), times=3)
    await client.redeem(CODE, f"{CUSTOMER}-lost", f"{ORDER}-lost")
    held = proxy.hold(holding(b"insert into redemption"))
    await client.redeem(CODE, f"{CUSTOMER}-held", f"{ORDER}-held")
    held.release()
    admin.run("UPDATE coupon SET busy_until = UTC_TIMESTAMP(6) + INTERVAL 1 MINUTE WHERE code = %s", LIFE)
    await ask(client, "busy")
    admin.run("UPDATE coupon SET busy_until = NULL")
    say = "SET @said = CONCAT_WS(' ', NEW.customer_id, NEW.order_id, NEW.end_reason, NEW.idempotency_key);"
    say += " SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, MESSAGE_TEXT = @said;"
    for change, back, name in (
        ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0", "read"),
        ("RENAME TABLE redemption TO away", "RENAME TABLE away TO redemption", "away"),
        (f"CREATE TRIGGER said BEFORE INSERT ON redemption FOR EACH ROW BEGIN {say} END", "DROP TRIGGER said", "said"),
        (f"CREATE TRIGGER said BEFORE UPDATE ON redemption FOR EACH ROW BEGIN {say} END", "DROP TRIGGER said", "changed"),
    ):
        admin.run(change)
        try:
            await ask(client, name)
        finally:
            admin.run(back)
    stores.mariadb.pause()
    await ask(client, "paused")
    stores.mariadb.resume()
    proxy.refuse()
    await ask(client, "refused")
    proxy.accept()
    for connection in admin.connections(stores.mariadb.user):
        admin.kill(connection)
    await ask(client, "cut")


async def harm_redis(client: Recorder, stores: Stores, proxy: Proxy) -> None:
    """Replies that are lost or are errors, keys that are none of Usher's making, a Redis that hangs or is dead."""
    proxy.lose_reply(holding(b"evalsha"), times=2)
    await ask(client, "reply")
    with redis.Redis.from_url(stores.redis.operator_url) as operator:
        for part in ("counter", "free", "pending", "customers"):
            operator.set(f"usher:1:{{{CODE}}}:{part}", CUSTOMER)
        await ask(client, "type")
        operator.config_set("maxmemory", "1")
        await ask(client, "full")
        operator.config_set("maxmemory", "0")
        operator.acl_setuser("usher", enabled=True, keys=[], reset_keys=True)
        await ask(client, "forbidden")
    stores.redis.pause()
    await ask(client, "hangs")
    stores.redis.resume()
    stores.redis.kill()
    await ask(client, "dead")
    stores.redis.start()

    async def serves_again() -> bool:
        return (await client.redeem(CODE, f"{CUSTOMER}-last", f"{ORDER}-last")).status < 400

    await until_async(serves_again, what="redemptions go on")


async def ask(client: Recorder, name: str) -> None:
    """A little of everything, while a store is in trouble."""
    some = [(f"{CUSTOMER}-{name}-{customer}", f"{ORDER}-{name}-{order}") for customer, order in orders(5)]
    # At once: each of them may take all the time that it has.
    others = asyncio.gather(
        client.redeem_all(CODE, some),
        client.redeem(f"{CODE}-FEW", f"{CUSTOMER}-{name}", f"{ORDER}-{name}"),
        reserve(client, f"{name}-found", key=f"{IDEMPOTENCY_KEY}-found"),
        cancel_order(client, "life-0"),
        client.send("PATCH", f"/v1/coupons/{LIFE}", body={"metadata": {CUSTOMER: name}}),
        client.send("POST", "/v1/validations", body={"code": LIFE, "customer_id": CUSTOMER}),
    )
    held = await reserve(client, name)
    await others
    verbs: dict[str, Json] = {"extend": {"hold_s": 1}, "confirm": None, "cancel": {"reason": REASON}}
    await asyncio.gather(
        *(act(client, held, verb, body) for verb, body in verbs.items()),
        client.get("/v1/redemptions", code=CODE, customer_id=CUSTOMER),
        client.create_coupon(f"{UNKNOWN_CODE}-{name}"),
        client.get("/readyz"),
    )


def operate(commands: Commands, outputs: Outputs, name: str) -> None:
    """The command line, what it refuses, and a ledger that is not there. Only what was typed may come back."""
    outputs.add_key(commands.run("key", "rotate", name).check().output.strip())
    commands.run("key", "create", "--name", name, "--scope", "admin")
    commands.run("key", "list")
    commands.run("key", "list", "--json")
    commands.run("key", "expire", name, "1d")
    commands.run("key", "revoke", name)
    commands.run("key", "rotate", name)
    commands.run("coupon", "list", "--json")
    commands.run("coupon", "create", CODE, "--max-redemptions", "1", typed=True)
    commands.run("coupon", "update", LIFE, "--max-per-customer", "1", typed=True)
    commands.run("coupon", "history", LIFE, typed=True)
    commands.run("coupon", "show", f"{UNKNOWN_CODE}-NONE", typed=True)
    commands.run("coupon", "create", "CANARY CODE", typed=True)
    commands.run("log-hash", CUSTOMER)
    nowhere = "mysql://usher:canary-pa%40ss@127.0.0.1:19/usher"
    outputs.secrets += ["canary-pa@ss"]
    for arguments in (("key", "list"), ("coupon", "list"), ("migrate",)):
        commands.run(*arguments, database_url=nowhere)


def arguments_of(*pids: int) -> str:
    """What `ps` shows of processes."""
    return "\n".join(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in pids)


@pytest.mark.timeout(300)
async def test_canaries_are_in_no_output(scenario: Outputs) -> None:
    """In no output of the server, of a command, nor in a problem; in none of their forms."""
    assert len(scenario.texts["serve"].splitlines()) >= 100
    leaks = scenario.leaks()
    assert {} == leaks, {
        name: [line for line in (scenario.texts | scenario.replies)[name].splitlines() if found_in(line, leaks[name])][:5]
        for name in leaks
    }
    # An operator who knows the customer's name finds the event all the same.
    hashed = run_usher("log-hash", f"{CUSTOMER}-held", settings={"USHER_LOG_HASH_KEY": HASH_KEY}).check().output.strip()
    failed = [line for line in scenario.texts["serve"].splitlines() if "redemption failed" in line and hashed in line]
    assert failed
    assert "request_id" in failed[0]


class Defective(Usher):
    """Usher with defects that can be set off."""

    def launch(self, *arguments: str) -> Kept:
        """As Usher's."""
        program = Program(
            Path(sys.executable), sys.executable, before=("-m", "tests.acceptance.defective"), environment=self._variables
        )
        return Kept(program, ["serve", "--workers", "2", *arguments], folder=PROJECT, log=self.log, grace_s=60)


@pytest.mark.parametrize("form", ["json", "pretty"])
async def test_defects_tell_their_place_and_nothing_else(stores: Stores, api_key: str, tmp_path: Path, form: str) -> None:
    """Whatever breaks, with the values in its hands: errors, forgotten tasks, callbacks, threads, destructors, warnings."""
    settings = {**TALKATIVE, "USHER_REQUEST_DEADLINE_MS": "20000", "USHER_LOG_FORMAT": form}
    variables = environment(database_url=stores.mariadb.url, redis_url=stores.redis.url, settings=settings)
    outputs = Outputs(secrets=secrets_of(stores))
    outputs.add_key(api_key)
    with Defective(tmp_path / "log", variables, workers=2) as server:
        async with Recorder("the checkout", server.url, key=api_key) as client:
            for defect in DEFECTS[:-1]:
                await client.get(f"/v1/coupons/{CODE}-{defect}")
            outputs.add_answers(client)
            assert "internal" in client.codes
        await asyncio.to_thread(spoken, server.port, exit_request(api_key))
        await until(lambda: "worker ended" in server.output, what="a worker has ended")
        server.stop()
        outputs.texts["serve"] = server.output
    assert {} == outputs.leaks()
    # Each is there, and says where it happened.
    places = [
        "request failed", "never retrieved", "Exception in callback", "a thread failed",
        "error that could not be raised", "RuntimeWarning", "Error handling request for", "no reply for", "uncaught",
    ]  # fmt: skip
    assert [] == [place for place in places if place not in server.output]
    assert server.output.count("builtins.LookupError") >= 5
    assert "defective.py" in server.output


def exit_request(key: str) -> bytes:
    """A GET that ends its worker."""
    return f"GET /v1/coupons/{CODE}-EXIT HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


@pytest.mark.parametrize("value", SENT)
def test_a_leak_is_found_in_any_form(value: str) -> None:
    """The search itself can fail."""
    for form in forms(value):
        assert [value] == found_in(f"line\n… xx{form.upper()}yy …", [value])
    assert value in Outputs(texts={"serve": f"… {value} …"}).leaks()["serve"]
    assert {} == Outputs(replies={"coupon list": value}).leaks()
    assert {"coupon list": [value]} == Outputs(replies={"coupon list": value}, secrets=[value]).leaks()
    assert [] == found_in("can ary", [value])


def test_log_hash_reads_what_need_not_be_in_the_history() -> None:
    """From standard input, a line; the same hash as from the argument. Without a key there is advice."""

    def typed(text: str, settings: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "service.cli", "log-hash"]
        return subprocess.run(
            command, cwd=PROJECT, env={**settings}, input=text, capture_output=True, text=True, timeout=60, check=False
        )

    known = {"USHER_LOG_HASH_KEY": HASH_KEY}
    given = run_usher("log-hash", CUSTOMER, settings=known).check().output
    assert 13 == len(given)
    assert given == typed(f"{CUSTOMER}\n", known).stdout
    refused = typed(f"{CUSTOMER}\n", {})
    assert (2, "") == (refused.returncode, refused.stdout)
    assert "USHER_LOG_HASH_KEY is not set" in refused.stderr
    assert CUSTOMER not in refused.stderr


async def test_every_line_is_a_json_document(start_usher: StartUsher) -> None:
    """Where no person looks, a line is an event."""
    server = start_usher(settings={"USHER_LOG_LEVEL": "debug"})
    server.terminate()
    await asyncio.to_thread(server.wait)
    lines = server.output.splitlines()
    assert lines
    for line in lines:
        assert {"event", "level", "timestamp"} <= set(json.loads(line)), line
