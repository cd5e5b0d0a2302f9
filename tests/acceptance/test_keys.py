"""Who may do what: keys, scopes, and keys that are taken back."""

import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from tests.acceptance.conftest import MakeCoupon, StartUsher, Stores
from tests.acceptance.test_coupons import check_problem
from tests.driver import Answer, Client, Json
from tests.stores import Admin
from tests.usher_process import Finished, Usher, run_usher
from tests.waiting import until_async

MakeKey = Callable[..., tuple[str, str]]

CALLS: dict[str, tuple[str, str, Json]] = {
    "redeem": ("POST", "/v1/redemptions", {"code": "SCOPES", "customer_id": "c", "order_id": "o"}),
    "read a redemption": ("GET", "/v1/redemptions/00000000-0000-7000-8000-000000000000", None),
    "list redemptions": ("GET", "/v1/redemptions?code=SCOPES", None),
    "create a coupon": ("POST", "/v1/coupons", {"code": "SCOPES"}),
    "change a coupon": ("PATCH", "/v1/coupons/SCOPES", {"metadata": {}}),
    "read a coupon": ("GET", "/v1/coupons/SCOPES", None),
    "list coupons": ("GET", "/v1/coupons", None),
}
ALLOWED = {
    "redeem": {"redeem", "read a redemption", "list redemptions"},
    "read": {"read a redemption", "list redemptions", "read a coupon", "list coupons"},
    "admin": set(CALLS),
}


@pytest.fixture(scope="module")
def other_usher(start_usher: StartUsher) -> Usher:
    return start_usher()


@pytest.fixture
def make_key(stores: Stores) -> MakeKey:
    """Makes a key with these scopes; returns its name and the key."""

    def make(*scopes: str) -> tuple[str, str]:
        name = f"key-{secrets.token_hex(4)}"
        chosen = [word for scope in scopes for word in ("--scope", scope)]
        made = run_usher("key", "create", "--name", name, *chosen, migration_url=stores.mariadb.migration_url).check()
        return name, made.output.strip()

    return make


@pytest.fixture
async def nobody(usher: Usher) -> AsyncIterator[Client]:
    """A client without a key."""
    async with Client(usher.url, key=None) as connected:
        yield connected


def revoke(stores: Stores, name: str) -> Finished:
    return run_usher("key", "revoke", name, migration_url=stores.mariadb.migration_url).check()


def check_unauthorized(answer: Answer) -> None:
    check_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scope", ALLOWED)
async def test_scopes(usher: Usher, client: Client, make_key: MakeKey, scope: str) -> None:
    """A key may do what its scopes say, and all else is 403."""
    assert (await client.create_coupon("SCOPES")).status in (201, 409)
    _, key = make_key(scope)
    async with Client(usher.url, key=key) as limited:
        statuses = {name: (await limited.send(method, path, body=body)).status for name, (method, path, body) in CALLS.items()}

    assert set(CALLS) - ALLOWED[scope] == {name for name, status in statuses.items() if status == 403}
    assert all(status in (200, 201, 404, 409) for name, status in statuses.items() if name in ALLOWED[scope])


async def test_scopes_add_up(usher: Usher, client: Client, make_key: MakeKey) -> None:
    assert (await client.create_coupon("SCOPES")).status in (201, 409)
    _, key = make_key("redeem", "read")
    async with Client(usher.url, key=key) as limited:
        assert 200 == (await limited.get("/v1/coupons/SCOPES")).status
        assert (await limited.redeem("SCOPES", "c", "o")).status in (200, 201)
        check_problem(await limited.create_coupon("ANOTHER"), 403, "forbidden")


@pytest.mark.parametrize(("method", "path", "body"), CALLS.values(), ids=CALLS.keys())
async def test_without_a_key(nobody: Client, method: str, path: str, body: object) -> None:
    """401 with `WWW-Authenticate`, whatever the call, before anything else is looked at."""
    check_unauthorized(await nobody.send(method, path, body=body))
    if body is not None:
        check_unauthorized(await nobody.send(method, path, data=b"{nonsense"))


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "bearer x", "Basic dXNlcjpwYXNz", "Bearer usher_" + "A" * 43,
     "usher_" + "A" * 43, "Bearer " + "A" * 5_000,     "Bearer \u00e9", "Bearer a b", "Bearer usher_'; --"],
)  # fmt: skip
async def test_what_is_no_key(nobody: Client, header: str) -> None:
    check_unauthorized(await nobody.send("GET", "/v1/coupons", headers={"Authorization": header}))


async def test_open_to_all(nobody: Client) -> None:
    """Whoever watches over the process needs no key, and one that is no good does not hurt."""
    for path in ("/livez", "/readyz"):
        assert 200 == (await nobody.get(path)).status
        assert 200 == (await nobody.send("GET", path, headers={"Authorization": "Bearer no-such-key-at-all"})).status


async def test_similar_keys_are_no_keys(usher: Usher, make_key: MakeKey) -> None:
    """Every character counts."""
    _, key = make_key("admin")
    wrong = [key[:-1], key + "A", key.swapcase(), key[:-1] + ("A" if key[-1] != "A" else "B"), key.removeprefix("usher_")]
    for text in wrong:
        async with Client(usher.url, key=text) as stranger:
            check_unauthorized(await stranger.get("/v1/coupons"))


async def test_new_key_works_in_every_process(usher: Usher, other_usher: Usher, make_key: MakeKey) -> None:
    """At once: a key is looked up when it is first seen."""
    _, key = make_key("read")
    for one in (usher, other_usher):
        async with Client(one.url, key=key) as reader:
            assert 200 == (await reader.get("/v1/coupons")).status


async def test_revoked_key(
    usher: Usher, other_usher: Usher, make_key: MakeKey, stores: Stores, client: Client, coupon: MakeCoupon
) -> None:
    """Within seconds every process refuses it, however often it was used before; other keys stay good."""
    code = await coupon()
    name, key = make_key("redeem")
    async with Client(usher.url, key=key) as here, Client(other_usher.url, key=key) as there:
        assert [201, 201] == [(await one.redeem(code, "c", f"o-{n}")).status for n, one in enumerate((here, there))]

        revoke(stores, name)

        for one in (here, there):

            async def is_refused(one: Client = one) -> bool:
                return (await one.redeem(code, "c", "o-0")).status == 401

            await until_async(is_refused, what="the revoked key is refused")
            check_unauthorized(await one.redeem(code, "c", "o-late"))
    assert 200 == (await client.get(f"/v1/coupons/{code}")).status


async def test_key_is_not_in_the_ledger(make_key: MakeKey, admin: Admin) -> None:
    """Neither the key nor its secret part is in any column; what is there is 32 bytes of digest."""
    name, key = make_key("redeem")
    (row,) = admin.run("SELECT * FROM api_key WHERE name = %s", name)
    assert 32 == len(row["digest"])
    assert not [column for column, value in row.items() if key.removeprefix("usher_") in str(value)]
