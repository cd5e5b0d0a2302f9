"""How the client is opened and closed, where its requests go, and what it does not even send."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import pytest

from tests.client.scripted import COUPON, REDEMPTION, SILENT, Scripted, says
from tests.waiting import until
from usher_client import Patience, UnknownProblem, Usher


async def test_it_is_open_between_entering_and_leaving(scripted: Scripted) -> None:
    scripted.then(*[says(dict(REDEMPTION))] * 2)
    usher = Usher(scripted.url, "key")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not open"):
            await usher.get("id")
        async with usher:
            assert (await usher.get("id")).counts
            with pytest.raises(RuntimeError, match="open already"):
                await usher.__aenter__()
    assert 2 == len(scripted.asked)


@pytest.mark.parametrize(
    "url",
    [
        "usher:8080", "ftp://usher", "", "http://", "https:///v1", "http://:8080", "http://usher:99999", "http://usher:0",
        "http://usher:http", "http://[::1", "http://usher?shop=1", "http://usher#top", "http://ann@usher", "http://a\ud800",
    ],
)  # fmt: skip
def test_an_address_that_is_none(url: str) -> None:
    """Is told to who writes it, not to the first customer."""
    with pytest.raises(ValueError, match="URL") as raised:
        Usher(url, "key")
    assert ValueError is type(raised.value)


@pytest.mark.parametrize("url", ["http://usher", "HTTPS://usher:8443/shops/a", "http://[::1]:8080/", "http://10.0.0.1:65535"])
def test_an_address_that_is_one(url: str) -> None:
    Usher(url, "key")


@pytest.mark.parametrize(
    "call",
    [
        lambda usher: usher.get("id\ud800"),
        lambda usher: usher.coupons.get("GOLD\ud800"),
        lambda usher: anext(usher.list(customer_id="ann\ud800")),
        lambda usher: anext(usher.list(order_id="\udc00")),
        lambda usher: anext(usher.coupons.list(prefix="\ud800G")),
    ],
)
async def test_half_a_character_is_in_no_name(scripted: Scripted, call: Callable[[Usher], Awaitable[object]]) -> None:
    """Left out of a query, it would find somebody else's redemptions."""
    async with Usher(scripted.url, "key") as usher:
        with pytest.raises(ValueError, match="surrogate") as raised:
            await call(usher)
    assert (ValueError, []) == (type(raised.value), scripted.asked)


async def test_as_many_connections_as_are_wanted(scripted: Scripted) -> None:
    """So many calls at a time have their answers on the way; the next one waits for a connection."""
    async with Usher(scripted.url, "key", connections=3) as usher:
        scripted.then(*[SILENT] * 4)
        calls = [asyncio.create_task(usher.get("id")) for _ in range(4)]
        await until(lambda: scripted.was_asked(3), what="three requests are there")
        await asyncio.sleep(0.1)
        assert 3 == len(scripted.asked)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_where_requests_go(scripted: Scripted) -> None:
    """Below the path of the URL; what is put into a path stays one part of it."""
    scripted.then(*[says(dict(REDEMPTION))] * 2)
    async with Usher(f"{scripted.url}/shops/usher/", " key\n", request_ids=lambda: "trace-7") as usher:
        await usher.cancel("a/b?c")
        await usher.confirm("id")
    cancelled, confirmed = scripted.asked
    assert ("POST", "/shops/usher/v1/redemptions/a%2Fb%3Fc/cancel", b"{}") == (
        cancelled.method,
        cancelled.target,
        cancelled.body,
    )
    assert ("POST", "/shops/usher/v1/redemptions/id/confirm", b"") == (confirmed.method, confirmed.target, confirmed.body)
    assert ("Bearer key", "trace-7-1") == (confirmed.headers["authorization"], confirmed.headers["x-request-id"])


async def test_nobody_leads_it_elsewhere(scripted: Scripted) -> None:
    """The key is for the address that the caller gave."""
    scripted.then(says(b"", status=307, headers={"Location": f"{scripted.url}/elsewhere"}), says(dict(REDEMPTION)))
    async with Usher(scripted.url, "key", patience=Patience(tries_max=2)) as usher:
        with pytest.raises(UnknownProblem):
            await usher.get("id")
    assert 1 == len(scripted.asked)


async def test_a_time_without_a_zone(scripted: Scripted) -> None:
    async with Usher(scripted.url, "key") as usher:
        with pytest.raises(ValueError, match="zone"):
            await usher.coupons.create("GOLD20", ends_at=datetime(2030, 1, 1))  # noqa: DTZ001 — this is what is wrong
    assert [] == scripted.asked


async def test_what_is_not_given_is_not_changed(scripted: Scripted) -> None:
    """And None is something."""
    scripted.then(*[says(dict(COUPON))] * 2)
    async with Usher(scripted.url, "key") as usher:
        await usher.coupons.change("GOLD20", max_per_customer=None)
        await usher.coupons.change("GOLD20", ends_at=None, status="paused")
    assert [b'{"max_per_customer": null}', b'{"ends_at": null, "status": "paused"}'] == [one.body for one in scripted.asked]
