"""A random walk over all calls, each answer predicted by the model, with accidents in Redis among the steps."""

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.driver import Answer, Json
from tests.walk.model import Coupon, Expected, Near, Redemption, is_near, text_of
from tests.walk.world import EDITS, Edit, Timed, World

COUPONS = ("A", "B")
"""A is limited, B is what the example draws."""
CUSTOMERS = ("ann", "bob", "cid")
ORDERS = tuple(f"order-{number}" for number in range(1, 6))
HOUR = timedelta(hours=1)
ASK_AGAIN_S = 0.2
WRONG_MAX_S = 1.5
"""How long a coupon may be called exhausted wrongly after an accident: a search within the last second is believed."""
CLAIM_AGE_S = 8.5
"""And after somebody has written claims: those that look like new ones count until they are too old to be under way, seven
seconds, and a search may have been made just before."""

door = st.integers(0, 3)
coupon = st.sampled_from(COUPONS)
customer = st.sampled_from(CUSTOMERS)
order = st.sampled_from(ORDERS)
hold_s = st.sampled_from((1_200, 60, 86_400))
idempotency_key = st.sampled_from(("key-1", "key-2", "key-3"))
which = st.integers(0, 5)
"""Counted from the newest redemption."""
reason = st.sampled_from((None, "declined", "refund_2"))
limit = st.sampled_from((1, 2, 3, 5))
per_customer = st.sampled_from((None, 1, 2, 3))
status = st.sampled_from(("active", "paused", "archived"))
starts = st.sampled_from((None, -3, 1))
"""In hours from now; the other end of the window as well."""
ends = st.sampled_from((None, -2, 2))
window = st.fixed_dictionaries({}, optional={"starts_at": starts, "ends_at": ends}).filter(bool)
change = st.one_of(
    st.fixed_dictionaries({"max_redemptions": st.sampled_from((None, 2))}),
    st.fixed_dictionaries({"max_per_customer": per_customer}),
    st.fixed_dictionaries({"status": status}),
    st.fixed_dictionaries({"status": st.just("active"), "starts_at": st.none(), "ends_at": st.none()}),
    window,
    st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"note": st.integers(1, 2)})}),
)
closing = st.one_of(st.fixed_dictionaries({"status": status}), window)


class Walk(RuleBasedStateMachine):
    """One example. `met`: how often each kind of answer was predicted and met, over all examples."""

    def __init__(self, world: World, met: "Counter[str]") -> None:
        super().__init__()
        self.world = world
        self.met = met
        self.calm = True
        self.parted: set[int] = set()
        self.numbers = itertools.count()

    # --- Coupons -------------------------------------------------------------------------------------------------------

    @initialize(
        a=st.tuples(limit, per_customer), b=st.tuples(st.sampled_from((None, 1, 2, 3)), per_customer), calm=st.booleans()
    )
    def create(self, a: tuple[int, int | None], b: tuple[int | None, int | None], calm: bool) -> None:
        """Limits, in all and per customer. `calm`: nobody edits counters, so that nothing excuses a wrong "exhausted"."""
        self.calm = calm
        self.begin({"A": a, "B": b})

    def begin(self, limits: Mapping[str, tuple[int | None, int | None]]) -> None:
        """With new coupons, in whose names nothing has happened."""
        self.limits = limits
        self.name = self.world.new_example()
        self.coupons: dict[str, Coupon] = {}
        self.redemptions: list[Redemption] = []
        self.dumps: dict[str, dict[str, bytes | None]] = {}
        self.unsure_until = dict.fromkeys(COUPONS, 0.0)
        self.expired_at: list[tuple[Redemption, float]] = []
        for name, (in_all, of_customer) in limits.items():
            fields: dict[str, Json] = {"max_redemptions": in_all, "max_per_customer": of_customer, "status": "active"}
            fields |= {"starts_at": None, "ends_at": None, "metadata": {}}
            made = Coupon(f"{self.name}-{name}", fields)
            self.coupons[name] = made
            timed = self.world.doors[0].call("POST", "/v1/coupons", body={"code": made.code, **fields})
            self.compare(Expected(201, fields=made.shown()), timed)

    @rule(door=door, coupon=coupon, change=change, if_match=st.sampled_from((None, None, 0, 1)))
    def change(self, door: int, coupon: str, change: dict[str, Json], if_match: int | None) -> None:
        """`if_match`: how far what the caller believes to be the version is behind the version."""
        self.patch(door, coupon, change, if_match=if_match)

    @rule(door=door, coupon=coupon, limit=limit, other_door=door, customer=customer, order=order)
    def change_limit(self, door: int, coupon: str, limit: int, other_door: int, customer: str, order: str) -> None:
        """No later request, in any process, is decided by the old limit; nor by old values below."""
        self.patch(door, coupon, {"max_redemptions": limit})
        self.ask(other_door, coupon, customer, order)

    @rule(door=door, coupon=coupon, change=closing, other_door=door, customer=customer, order=order)
    def close_for_a_while(
        self, door: int, coupon: str, change: dict[str, Json], other_door: int, customer: str, order: str
    ) -> None:
        self.patch(door, coupon, change)
        self.ask(other_door, coupon, customer, order)
        self.patch(other_door, coupon, {"status": "active", "starts_at": None, "ends_at": None})
        self.ask(door, coupon, customer, order)

    def patch(self, door: int, coupon: str, change: dict[str, Json], *, if_match: int | None = None) -> None:
        changed = self.coupons[coupon]
        now = datetime.now(UTC)
        fields = {name: now + value * HOUR if name.endswith("_at") and value else value for name, value in change.items()}
        believed = None if if_match is None else changed.version - if_match
        expected = changed.change(fields, if_match=believed)
        body = {name: text_of(value) if isinstance(value, datetime) else value for name, value in fields.items()}
        headers = {} if believed is None else {"If-Match": f'"{believed}"'}
        timed = self.call(door, "PATCH", f"/v1/coupons/{changed.code}", body=body, headers=headers)
        self.compare(expected, timed)
        if expected.status == 200:
            assert f'"{changed.version}"' == timed.answer.headers["ETag"]

    @rule(door=door, coupon=coupon, wanted=st.one_of(st.none(), status))
    def read_coupons(self, door: int, coupon: str, wanted: str | None) -> None:
        self.show_coupon(door, coupon)
        self.show_history(door, coupon)
        self.list_coupons(door, wanted)

    def show_coupon(self, door: int, coupon: str) -> None:
        shown = self.coupons[coupon]
        timed = self.call(door, "GET", f"/v1/coupons/{shown.code}")
        self.compare(Expected(200, fields=shown.shown()), timed)
        usage = {name: value for name, value in timed.answer.body["usage"].items() if name != "as_of"}
        assert shown.usage() == usage

    def list_coupons(self, door: int, wanted: str | None) -> None:
        timed = self.call(door, "GET", "/v1/coupons", query={"prefix": self.name + "-", "status": wanted})
        self.compare(Expected(200), timed)
        expected = [one.code for one in self.coupons.values() if wanted in (None, one.fields["status"])]
        assert expected == [item["code"] for item in timed.answer.body["items"]]

    def show_history(self, door: int, coupon: str) -> None:
        shown = self.coupons[coupon]
        timed = self.call(door, "GET", f"/v1/coupons/{shown.code}/history", query={"page_size": 200})
        self.compare(Expected(200), timed)
        items = timed.answer.body["items"]
        assert list(range(shown.version, 0, -1)) == [item["version"] for item in items]
        expected = [(None, shown.history[0]), *itertools.pairwise(shown.history)]
        assert expected[::-1] == [(item["before"], item["after"]) for item in items]

    @rule(door=door, coupon=coupon, customer=st.one_of(st.none(), customer))
    def validate(self, door: int, coupon: str, customer: str | None) -> None:
        """It refuses exactly when redeeming would."""
        asked = self.coupons[coupon]
        body = {"code": asked.code} if customer is None else {"code": asked.code, "customer_id": self.customer(customer)}
        refusal = asked.refusal(customer and self.customer(customer))
        timed = self.sure(
            coupon,
            asked.free,
            lambda: self.call(door, "POST", "/v1/validations", body=body),
            is_wrong=lambda answer: refusal is None and answer.body.get("reason") == "coupon_exhausted",
        )
        expected = {"valid": True} if refusal is None else {"valid": False, "reason": refusal.code}
        self.compare(Expected(200, fields=expected), timed)
        remaining = timed.answer.body["remaining"]
        if refusal is None:
            assert (asked.fields["max_redemptions"] is None) == (remaining is None)
            assert remaining is None or remaining > 0

    # --- Redeeming -------------------------------------------------------------------------------------------------

    @rule(door=door, coupon=coupon, customer=customer, order=order, hold_s=st.one_of(st.none(), hold_s))
    def redeem(self, door: int, coupon: str, customer: str, order: str, hold_s: int | None) -> None:
        self.ask(door, coupon, customer, order, hold_s=hold_s)

    @rule(door=door, coupon=coupon, customer=customer, order=order, hold_s=st.one_of(st.none(), hold_s), key=idempotency_key)
    def redeem_with_key(self, door: int, coupon: str, customer: str, order: str, hold_s: int | None, key: str) -> None:
        self.ask(door, coupon, customer, order, hold_s=hold_s, key=key)

    def ask(
        self, door: int, coupon: str, customer: str, order: str, *, hold_s: int | None = None, key: str | None = None
    ) -> None:
        """A redemption. Only after an accident may a coupon be called exhausted that is not, and not for long."""
        asked = self.coupons[coupon]
        known = None if key is None else (self.world.callers[door], key)
        free = asked.free
        expected = asked.redeem(self.customer(customer), order, key=known, hold_s=hold_s)
        body: dict[str, Json] = {"code": asked.code, "customer_id": self.customer(customer), "order_id": order}
        body |= {} if hold_s is None else {"hold_s": hold_s}
        headers = {} if key is None else {"Idempotency-Key": key}
        timed = self.sure(
            coupon,
            free,
            lambda: self.call(door, "POST", "/v1/redemptions", body=body, headers=headers),
            is_wrong=lambda answer: expected.status == 201 and answer.code == "coupon_exhausted",
        )
        if expected.status == 201 and expected.redemption is not None:
            self.redemptions.append(expected.redemption)
        self.compare(expected, timed)

    # --- The life of a redemption ----------------------------------------------------------------------------------

    @rule(door=door, which=which)
    def confirm(self, door: int, which: int) -> None:
        found = self.find(which)
        self.act(door, found, "confirm", None, found.confirm() if found else None)

    @rule(door=door, which=which, hold_s=hold_s)
    def extend(self, door: int, which: int, hold_s: int) -> None:
        found = self.find(which)
        self.act(door, found, "extend", {"hold_s": hold_s}, found.extend(hold_s) if found else None)

    @rule(door=door, which=which, reason=reason)
    def cancel(self, door: int, which: int, reason: str | None) -> None:
        found = self.find(which)
        body = None if reason is None else {"reason": reason}
        self.act(door, found, "cancel", body, found.cancel(reason) if found else None)

    @rule(door=door, coupon=coupon, customer=customer, which=which)
    def use_again(self, door: int, coupon: str, customer: str, which: int) -> None:
        """A use that is given back is free for the next request, whoever was refused a moment ago."""
        self.ask(door, coupon, customer, f"order-new-{next(self.numbers)}")
        live = self.coupons[coupon].live()
        if live:
            found = live[-1 - which % len(live)]
            self.act(3 - door, found, "cancel", None, found.cancel(None))
        self.ask(door, coupon, customer, f"order-new-{next(self.numbers)}")

    @rule(door=door, coupon=coupon, order=order, reason=reason)
    def cancel_order(self, door: int, coupon: str, order: str, reason: str | None) -> None:
        body: dict[str, Json] = {"code": self.coupons[coupon].code, "order_id": order}
        body |= {} if reason is None else {"reason": reason}
        expected = self.coupons[coupon].cancel_order(order, reason)
        self.compare(expected, self.call(door, "POST", "/v1/redemptions/cancel", body=body))

    @rule(door=door, which=which)
    def show(self, door: int, which: int) -> None:
        found = self.find(which)
        expected = Expected(404, "redemption_not_found") if found is None else Expected(200, redemption=found)
        self.compare(expected, self.call(door, "GET", f"/v1/redemptions/{id_of(found)}"))

    @rule(
        door=door,
        coupon=coupon,
        customer=st.one_of(st.none(), customer),
        order=st.one_of(st.none(), order),
        status=st.sampled_from((None, "reserved", "confirmed", "cancelled", "expired")),
        page_size=st.sampled_from((1, 3, 200)),
    )
    def list(self, door: int, coupon: str, customer: str | None, order: str | None, status: str | None, page_size: int) -> None:
        narrow = {"customer_id": customer and self.customer(customer), "order_id": order, "status": status}
        listed = self.coupons[coupon]
        expected = [
            one
            for one in reversed(listed.redemptions)
            if all(value in (None, one.view[name]) for name, value in narrow.items())
        ]
        items, token = [], None
        while True:
            query = {"code": listed.code, **narrow, "page_size": page_size, "page_token": token}
            timed = self.call(door, "GET", "/v1/redemptions", query=query)
            self.compare(Expected(200), timed)
            items += timed.answer.body["items"]
            token = timed.answer.body["next_page_token"]
            if token is None:
                break
        assert [one.view["id"] for one in expected] == [item["id"] for item in items]
        for one, item in zip(expected, items, strict=True):
            self.compare_redemption(one, item, timed)
        seats = [item["seat"] for item in items if item["seat"] is not None]
        assert len(seats) == len(set(seats))

    @rule(door=door, coupon=coupon, customer=customer, order=order, which=which)
    def expire(self, door: int, coupon: str, customer: str, order: str, which: int) -> None:
        """The time of a hold is over, of a new one if there is none.

        Who was told a moment ago that nothing is free may be told so for another moment.
        """
        if not self.holds():
            self.ask(door, coupon, customer, order, hold_s=60)
        holds = self.holds()
        if holds:
            found = holds[-1 - which % len(holds)]
            found.expire(text_of(self.world.make_overdue(found.view["id"])))
            self.expired_at.append((found, time.monotonic()))

    def holds(self) -> Sequence[Redemption]:
        return [one for one in self.redemptions if one.status == "reserved"]

    # --- Accidents ---------------------------------------------------------------------------------------------------

    @rule(scripts=st.booleans())
    def flush(self, scripts: bool) -> None:
        self.world.flush(scripts=scripts)

    @rule(coupon=coupon)
    def dump(self, coupon: str) -> None:
        self.dumps[coupon] = self.world.dump(self.coupons[coupon].code)

    @rule(coupon=coupon)
    def restore(self, coupon: str) -> None:
        if coupon in self.dumps and not self.calm:
            self.world.restore(self.coupons[coupon].code, self.dumps[coupon])
            self.accident(coupon, CLAIM_AGE_S)

    @rule(coupon=coupon, edit=st.sampled_from(EDITS))
    def edit(self, coupon: str, edit: Edit) -> None:
        if self.calm:
            return
        name = self.customer(edit.field) if edit.part == "customers" else edit.field
        self.world.edit(self.coupons[coupon].code, edit._replace(field=name))
        self.accident(coupon, CLAIM_AGE_S if edit.part == "pending" else WRONG_MAX_S)

    @rule(number=st.integers(0, 1), dice=st.sampled_from(range(40)))
    def restart(self, number: int, dice: int) -> None:
        """SIGKILL, and a new start: now and then, since it takes its time."""
        if dice == 17:
            self.world.restart(number)

    @rule(number=st.integers(0, 1))
    def part_from_redis(self, number: int) -> None:
        """A service and Redis part, or meet again. What is given back by the one is not told to the other's counters."""
        if self.calm:
            return
        self.parted ^= {number}
        self.world.part(number, from_redis=number in self.parted)
        self.met["parted from Redis"] += 1

    def accident(self, coupon: str, wrong_s: float) -> None:
        self.unsure_until[coupon] = max(self.unsure_until[coupon], time.monotonic() + wrong_s)

    def teardown(self) -> None:
        """All that can be read, once more."""
        for number in self.parted:
            self.world.part(number, from_redis=False)
        for name in self.coupons:
            self.show_coupon(0, name)
            self.list(0, name, None, None, None, 200)

    # --- Comparing -----------------------------------------------------------------------------------------------------

    def customer(self, name: str) -> str:
        """The example's customer of this name: those of other examples have guessed codes of their own."""
        return f"{name}-{self.name}"

    def find(self, which: int) -> Redemption | None:
        return self.redemptions[-1 - which % len(self.redemptions)] if self.redemptions else None

    def call(self, door: int, method: str, path: str, **request: Json) -> Timed:
        return self.world.doors[door].call(method, path, **request)

    def sure(self, coupon: str, free: int, ask: Callable[[], Timed], *, is_wrong: Callable[[Answer], bool]) -> Timed:
        """The answer; a wrong "exhausted" is asked again as long as there is an excuse. `free`: uses before it."""
        timed = ask()
        while is_wrong(timed.answer) and self.is_excused(coupon, free):
            self.met["exhausted for a while"] += 1
            time.sleep(ASK_AGAIN_S)
            timed = ask()
        return timed

    def is_excused(self, coupon: str, free: int) -> bool:
        """Whether a wrong "exhausted" is: an accident was not long ago; or all that is free was held until a moment ago."""
        now = time.monotonic()
        lately = sum(one.coupon is self.coupons[coupon] and now < at + WRONG_MAX_S for one, at in self.expired_at)
        return self.world.is_parted or now < self.unsure_until[coupon] or free <= lately

    def act(
        self, door: int, found: Redemption | None, verb: str, body: Mapping[str, Json] | None, expected: Expected | None
    ) -> None:
        timed = self.call(door, "POST", f"/v1/redemptions/{id_of(found)}/{verb}", body=body)
        self.compare(expected or Expected(404, "redemption_not_found"), timed)

    def compare(self, expected: Expected, timed: Timed) -> None:
        """The answer is the one that was predicted."""
        self.check(expected, timed)
        answer = timed.answer
        self.met[f"{answer.status} {answer.code}".strip()] += 1
        if expected.redemption is not None:
            self.met[f"{answer.status} {answer.body['status']}"] += 1

    def check(self, expected: Expected, timed: Timed) -> None:
        """As `compare`, uncounted."""
        answer = timed.answer
        assert (expected.status, expected.code) == (answer.status, answer.code), answer.body
        assert ("true" if expected.replayed else None) == answer.headers.get("Idempotent-Replayed")
        assert dict(expected.fields) == {name: answer.body.get(name) for name in expected.fields}
        if expected.redemption is not None:
            self.compare_redemption(expected.redemption, answer.body, timed)

    def compare_redemption(self, redemption: Redemption, body: Mapping[str, Json], timed: Timed) -> None:
        """The redemption is the one that was predicted; what only the service knows is learned from it."""
        view = redemption.view
        view["id"] = view["id"] or body["id"]
        for name, value in view.items():
            if isinstance(value, Near):
                assert is_near(body[name], value, timed.began, timed.ended), (name, value, body[name], timed.began)
                view[name] = body[name]
        assert {**view, "seat": body["seat"]} == dict(body)
        assert redemption.has_seat == (body["seat"] is not None)


def id_of(redemption: Redemption | None) -> str:
    return str(uuid.UUID(int=7)) if redemption is None else str(redemption.view["id"])
