"""What Usher writes down: codes, customers, orders and keys are in no line of it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from tests.acceptance.conftest import StartUsher, Stores
from tests.driver import Client, orders
from tests.faults import Proxy, holding
from tests.stores import Admin
from tests.usher_process import Finished, Usher, kill, run_usher
from tests.waiting import until

CODE, UNKNOWN_CODE = "CANARYCODE7Q", "CANARYGUESS4X"
CUSTOMER, ORDER = "canary-customer-8f31", "canary-order-52bd"
WRONG_KEY = "usher_CanaryKeyThatIsNoKey9d"
CANARIES = (CODE, UNKNOWN_CODE, CUSTOMER, ORDER, "Canary")


@dataclass
class Outputs:
    """All that was written while the canaries flew, and the secrets that came into being meanwhile."""

    texts: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def add(self, name: str, finished: Finished) -> Finished:
        self.texts[name] = finished.errors
        return finished


@pytest.fixture(scope="module")
def proxy(stores: Stores) -> Iterator[Proxy]:
    with Proxy(stores.mariadb.port) as standing:
        yield standing


@pytest.fixture(scope="module", params=["json", "pretty"])
def usher(request: pytest.FixtureRequest, start_usher: StartUsher, stores: Stores, proxy: Proxy) -> Usher:
    """As talkative as it can be."""
    return start_usher(
        workers=2,
        database_url=proxy.url(stores.mariadb.url),
        settings={"USHER_LOG_LEVEL": "debug", "USHER_LOG_FORMAT": request.param, "USHER_REQUEST_DEADLINE_MS": "1000"},
    )


@pytest.fixture
async def scenario(usher: Usher, stores: Stores, proxy: Proxy, admin: Admin) -> AsyncIterator[Outputs]:
    """Everything that makes Usher write: successes, refusals, poison, faults of both stores, a dead worker, a stop."""
    outputs = Outputs()
    name = f"canary-{usher.port}"
    made = outputs.add(
        "key create", run_usher("key", "create", "--name", name, "--scope", "admin", database_url=stores.mariadb.url)
    )
    key = made.check().output.strip()
    outputs.secrets += [key, key.removeprefix("usher_"), stores.mariadb.password]
    async with Client(usher.url, key=key) as client:
        await fly(client)
        async with Client(usher.url, key=WRONG_KEY) as stranger:
            await stranger.redeem(CODE, CUSTOMER, ORDER)
        await fault(client, stores, proxy, admin)
    kill(usher.workers()[0])
    await until(lambda: len(usher.workers()) == 2, what="two workers again")
    outputs.texts["key list"] = run_usher("key", "list", database_url=stores.mariadb.url).check().errors
    outputs.add("key revoke", run_usher("key", "revoke", name, database_url=stores.mariadb.url))
    usher.terminate()
    assert 0 == await asyncio.to_thread(usher.wait)
    outputs.texts["serve"] = usher.output
    yield outputs
    usher.start()


async def fly(client: Client) -> None:
    """Business of all kinds, with canaries in paths, queries, bodies and headers."""
    await client.create_coupon(CODE, max_redemptions=3, max_per_customer=1, metadata={"note": CUSTOMER})
    await client.create_coupon(CODE)
    await client.create_coupon(f"{CODE}-FEW", max_redemptions=1)
    await client.redeem(f"{CODE}-FEW", CUSTOMER, ORDER)
    await client.redeem_all(CODE, [(f"{CUSTOMER}-{n}", f"{ORDER}-{n % 4}") for n in range(8)])
    await client.redeem(UNKNOWN_CODE, CUSTOMER, ORDER)
    await client.get(f"/v1/coupons/{CODE}")
    await client.get(f"/v1/coupons/{UNKNOWN_CODE}")
    await client.get("/v1/coupons", prefix=CODE)
    await client.get("/v1/redemptions", code=CODE, customer_id=CUSTOMER, order_id=ORDER)
    await client.get("/v1/redemptions", code=CODE, page_token=ORDER)
    await client.get(f"/{CODE}/{CUSTOMER}")
    await client.send("POST", "/v1/redemptions", data=f'{{"code": "{CODE}", "{CUSTOMER}": "{ORDER}"'.encode())
    await client.send(
        "POST", "/v1/redemptions", body={"code": CODE, "customer_id": CUSTOMER, "order_id": f"{ORDER}\x00", CUSTOMER: 1}
    )
    await client.send("PATCH", f"/v1/coupons/{CODE}", body={"max_redemptions": 5, "ends_at": CUSTOMER})
    await client.send("PATCH", f"/v1/coupons/{CODE}", body={"status": "paused", "metadata": {CUSTOMER: ORDER}})
    await client.redeem(CODE, CUSTOMER, ORDER)
    await client.change_coupon(CODE, status="active", max_redemptions=1_000, max_per_customer=900)


async def fault(client: Client, stores: Stores, proxy: Proxy, admin: Admin) -> None:
    """What drivers complain about, with statements and values in their messages."""
    proxy.lose_reply(holding(b"insert into redemption"), times=3)
    await client.redeem(CODE, f"{CUSTOMER}-lost", f"{ORDER}-lost")
    held = proxy.hold(holding(b"insert into redemption"))
    await client.redeem(CODE, f"{CUSTOMER}-held", f"{ORDER}-held")
    held.release()
    admin.run("SET GLOBAL read_only = 1")
    try:
        await client.redeem(CODE, f"{CUSTOMER}-read", f"{ORDER}-read")
        await client.create_coupon(UNKNOWN_CODE)
    finally:
        admin.run("SET GLOBAL read_only = 0")
    admin.run("RENAME TABLE redemption TO away")
    try:
        await client.redeem(CODE, f"{CUSTOMER}-away", f"{ORDER}-away")
        await client.redeem(f"{CODE}-FEW", f"{CUSTOMER}-away", f"{ORDER}-away")
        await client.get("/v1/redemptions", code=CODE, customer_id=CUSTOMER)
    finally:
        admin.run("RENAME TABLE away TO redemption")
    stores.redis.kill()
    try:
        await client.redeem_all(CODE, [(f"{customer}-{CUSTOMER}", f"{order}-{ORDER}") for customer, order in orders(5)])
    finally:
        stores.redis.start()
    proxy.cut()
    await client.redeem(CODE, f"{CUSTOMER}-last", f"{ORDER}-last")


async def test_canaries_are_in_no_output(scenario: Outputs, usher: Usher) -> None:
    """Codes, customers, orders, keys and passwords are in no output, however it is cased, of the server nor of a command."""
    logging.getLogger(__name__).debug("%d characters of log", len(scenario.texts["serve"]))
    assert len(scenario.texts["serve"].splitlines()) >= 3
    for name, text in scenario.texts.items():
        lowered = text.lower()
        found = [canary for canary in (*CANARIES, *scenario.secrets) if canary.lower() in lowered]
        assert (name, []) == (name, found), [
            line for line in text.splitlines() if any(f.lower() in line.lower() for f in found)
        ]


async def test_every_line_is_a_json_document(start_usher: StartUsher) -> None:
    """Where no person looks, a line is an event."""
    server = start_usher(settings={"USHER_LOG_LEVEL": "debug"})
    server.terminate()
    await asyncio.to_thread(server.wait)
    lines = server.output.splitlines()
    assert lines
    for line in lines:
        assert {"event", "level", "timestamp"} <= set(json.loads(line)), line
