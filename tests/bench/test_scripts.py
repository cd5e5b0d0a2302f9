"""The scripts that wrk runs, without wrk: what they ask for, and what they count."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lupa.luajit21 import LuaRuntime

BENCH = Path(__file__).resolve().parents[2] / "bench"
SENT = 3_000


def script(name: str, *arguments: str) -> Any:  # noqa: ANN401 - Lua's globals
    """A script as wrk's only thread has it; what it asks for is its body."""
    lua = LuaRuntime()
    lua.execute(
        "wrk = { format = function(method, path, headers, body) return method .. ' ' .. path .. ' ' .. (body or '') end }"
    )
    lua.execute("os.time = function() return 1 end")  # The seed: what comes by chance is the same every time.
    lua.execute((BENCH / name).read_text())
    lua.execute("thread = { set = function(_, name, value) _G[name] = value end, get = function(_, name) return _G[name] end }")
    lua.execute("setup(thread)")
    found: Any = lua.globals()
    found.init(lua.table(*arguments))
    return found


def asked(one: Any) -> dict[str, str]:  # noqa: ANN401
    """The next request's body."""
    found: dict[str, str] = json.loads(one.request().partition(" /v1/redemptions ")[2])
    return found


def test_every_redemption_is_of_a_customer_and_an_order_of_its_own() -> None:
    one = script("redeem.lua", "key", "HOT", "first")
    bodies = [asked(one) for _ in range(SENT)]
    assert SENT == len({body["customer_id"] for body in bodies}) == len({body["order_id"] for body in bodies})
    assert {"HOT"} == {body["code"] for body in bodies}


def test_orders_come_again_after_so_many() -> None:
    one = script("redeem.lua", "key", "HOT", "again", "orders=3")
    orders = [asked(one)["order_id"] for _ in range(7)]
    assert orders[:3] * 2 + orders[:1] == orders
    assert 3 == len(set(orders))


def test_coupons_are_asked_for_by_zipfs_law() -> None:
    """The first of 10,000 gets ln 2 / ln 10,000 of the requests; all up to the hundredth get half of them."""
    one = script("redeem.lua", "key", "HOT", "zipf", "coupons=10000", "zipf=1")
    ranks = Counter(int(asked(one)["code"].removeprefix("HOT-")) for _ in range(SENT))
    assert 1 <= min(ranks)
    assert max(ranks) <= 10_000
    assert 0.055 < ranks[1] / SENT < 0.095
    assert 0.45 < sum(times for rank, times in ranks.items() if rank < 100) / SENT < 0.55


def test_answers_are_counted_by_status_and_code() -> None:
    one = script("redeem.lua", "key", "HOT", "counts")
    for status, body in [
        (201, "{}"),
        (201, "{}"),
        (200, "{}"),
        (409, '{"code":"coupon_exhausted"}'),
        (503, '{"code": "pool"}'),
        (500, "oops"),
    ]:
        one.response(status, None, body)
    assert 2 == one.good
    assert {"200 ": 1, "409 coupon_exhausted": 1, "503 pool": 1, "500 ": 1} == dict(one.counts)


def test_a_shop_confirms_most_holds_cancels_some_and_leaves_a_few() -> None:
    one = script("redeem.lua", "key", "HOT", "shop", "shop=1")
    asked_for: Counter[str] = Counter()
    for number in range(1_950):
        request = one.request()
        what = request.split()[1].rpartition("/")[2]
        asked_for[what] += 1
        if what == "redemptions":
            assert '"hold_s":600' in request
            one.response(201, None, f'{{"id":"0000-{number:x}"}}')
    # One that reserves is followed by 0.95 that end it, at once.
    assert {"redemptions": 1_000, "confirm": 800, "cancel": 150} == asked_for
