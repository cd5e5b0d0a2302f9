"""A walk in which calls about one redemption also come at once, through different processes.

Such calls have many right answers: those that they would have got one after the other, in any order in which no call comes
before one that was answered before it began. The model is asked for each of these orders until one explains all answers.

One answer is excused: a redeeming call that is under way holds a use for some milliseconds, until the ledger has said what
becomes of it, also when its order turns out to have its redemption already. Another order may be told "exhausted" meanwhile.

Two calls count as two each, one after the other. A call with an idempotency key finds a redemption, and then shows it: the key
stands for it whatever becomes of it. A cancel by order finds a live redemption, and then cancels it, if others have not.

What comes at once does not come in the same way twice, so there is nothing that hypothesis could find again and shrink:
answers that nothing explains are collected for the test, and the example goes on with new coupons.
"""

import copy
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.driver import Json
from tests.walk.machine import WRONG_MAX_S, Walk, coupon, customer, which
from tests.walk.model import Coupon, Expected, Redemption
from tests.walk.world import Timed, World

CALLS_MAX = 3
DELAYS_S = (0, 0, 0.001, 0.002, 0.004, 0.008)
"""How much later than the others a call is sent: a transition takes a few milliseconds."""
VERBS = ("cancel", "cancel", "cancel_order", "confirm", "extend", "redeem", "redeem", "redeem with key", "redeem as stranger")

FOUND = Expected(200)
"""There is a live redemption, which is to be cancelled."""


class Step(NamedTuple):
    """What comes at once: so many calls as there are verbs, each through a door of its own.

    `which`: the redemption that they are about, counted from the newest. Before that the `customer` redeems the `coupon` twice,
    at first with a `hold` or not; and whoever hears of a cancel redeems for this customer, too.
    """

    doors: Sequence[int]
    verbs: Sequence[str]
    delays: Sequence[float]
    coupon: str
    customer: str
    which: int
    hold: bool


STEP = st.builds(
    Step,
    doors=st.permutations(range(4)),
    verbs=st.lists(st.sampled_from(VERBS), min_size=2, max_size=CALLS_MAX),
    delays=st.lists(st.sampled_from(DELAYS_S), min_size=CALLS_MAX, max_size=CALLS_MAX),
    coupon=coupon,
    customer=customer,
    which=which,
    hold=st.booleans(),
)


class Call(NamedTuple):
    """A call about the redemption at this place of all that the example has made, or about its order.

    `order`, `customer` and `key` are for redeeming. `by`: the caller. The verbs `show` and `cancel found` are second halves,
    about what the first one has found.
    """

    verb: str
    place: int
    order: str
    customer: str
    by: str
    key: str | None = None


@dataclass
class State:
    """What the model believes: can be copied, and tried."""

    coupons: dict[str, Coupon]
    redemptions: list[Redemption]
    expired_at: list[tuple[Redemption, float]]

    def answer(self, call: Call) -> Expected:
        """The answer to a call that comes now."""
        about = self.redemptions[call.place]
        match call.verb:
            case "confirm":
                expected = about.confirm()
            case "extend":
                expected = about.extend(60)
            case "cancel":
                expected = about.cancel("declined")
            case "cancel_order" if about.coupon.live_of_order(call.order) is None:
                expected = Expected(404, "redemption_not_found")
            case "cancel_order":
                expected = FOUND
            case "cancel found":
                expected = about.cancel("refund_2")
            case "get":
                expected = Expected(200, redemption=about)
            case "show":
                expected = Expected(200, redemption=about, replayed=True)
            case _:
                expected = self._redeem(call, about.coupon)
        return expected

    def _redeem(self, call: Call, coupon: Coupon) -> Expected:
        known = None if call.key is None else (call.by, call.key)
        expected = coupon.redeem(call.customer, call.order, key=known, hold_s=None)
        if expected.status == 201 and expected.redemption is not None:
            self.redemptions.append(expected.redemption)
        return expected

    def place(self, redemption: Redemption | None) -> int:
        """Of a redemption that there is."""
        return next(place for place, one in enumerate(self.redemptions) if one is redemption)


class Answered(NamedTuple):
    """A call and its answer."""

    call: Call
    timed: Timed

    def is_beside(self, others: "Sequence[Answered]") -> bool:
        """Whether another order's redeeming call was under way at the same time."""
        return any(
            other.call.verb.startswith("redeem")
            and other.call.order != self.call.order
            and other.timed.began < self.timed.ended
            and self.timed.began < other.timed.ended
            for other in others
        )

    def then(self, verb: str, place: int) -> "Answered":
        """The second half, which the same answer is of."""
        return Answered(self.call._replace(verb=verb, place=place, key=None), self.timed)

    def __str__(self) -> str:
        began, ended = self.timed.began, self.timed.ended
        return f"{began:%S.%f}-{ended:%S.%f} {self.call}: {self.timed.answer.status} {self.timed.answer.body}"


class WalkAtOnce(Walk):
    """The walk, with calls at once among its steps."""

    def __init__(self, world: World, met: "Counter[str]") -> None:
        super().__init__(world, met)
        self.pool = ThreadPoolExecutor(CALLS_MAX)
        self.excused: set[Call] = set()

    def teardown(self) -> None:
        self.pool.shutdown()
        super().teardown()

    def begin_anew(self, why: str) -> None:
        """The model cannot go on from here."""
        self.world.unexplained.append(why)
        self.begin(self.limits)

    @rule(step=STEP)
    def at_once(self, step: Step) -> None:
        """Calls about one redemption. Whoever hears of a cancel asks for the use at once, in another process."""
        for door, hold_s in zip(step.doors, (600 if step.hold else None, None), strict=False):
            self.ask(door, step.coupon, step.customer, f"order-new-{next(self.numbers)}", hold_s=hold_s)
        found = self.find(step.which)
        if found is None:
            return
        place, about = self.redemptions.index(found), found.view
        key, numbers = f"key-{next(self.numbers)}", [next(self.numbers) for _ in step.verbs]
        barrier = threading.Barrier(len(step.verbs))

        def send(turn: int) -> list[Answered]:
            verb, by = step.verbs[turn], step.doors[turn]
            call = Call(
                verb,
                place,
                about["order_id"],
                self.customer("stranger") if verb == "redeem as stranger" else about["customer_id"],
                self.world.callers[by],
                key if verb == "redeem with key" else None,
            )
            barrier.wait()
            time.sleep(step.delays[turn])
            answers = [Answered(call, self.send(call, by))]
            if verb.startswith("cancel") and answers[0].timed.answer.status == 200:
                order = f"order-new-{numbers[turn]}"
                more = Call("redeem", place, order, self.customer(step.customer), self.world.callers[3 - by])
                answers.append(Answered(more, self.send(more, by, elsewhere=True)))
            return answers

        answers = [one for some in self.pool.map(send, range(len(step.verbs))) for one in some]
        # What has become of it says which of two orders it was that explain the answers: of two extensions, say.
        look = Call("get", place, about["order_id"], about["customer_id"], "anybody")
        answers.append(Answered(look, self.call(step.doors[0], "GET", f"/v1/redemptions/{about['id']}")))
        self.met["at once"] += 1
        try:
            self.explain(answers)
            for by in [by for by, verb in zip(step.doors, step.verbs, strict=False) if verb == "redeem with key"]:
                self.use_key(by, about, key)
        except AssertionError as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.begin_anew(
                "\n".join(
                    [f"{error} ({where.name}: {where.line})", *map(str, sorted(answers, key=lambda one: one.timed.began))]
                )
            )

    def use_key(self, door: int, about: Mapping[str, Json], key: str) -> None:
        """A key stands for what it has made or found, also when that has ended."""
        name = next(name for name, one in self.coupons.items() if one.code == about["code"])
        self.cancel_order(door, name, about["order_id"], None)
        self.ask(door, name, about["customer_id"].removesuffix(f"-{self.name}"), about["order_id"], key=key)

    def send(self, call: Call, door: int, *, elsewhere: bool = False) -> Timed:
        """Through a door; `elsewhere`: through the one that is for others."""
        about = self.redemptions[call.place].view
        path, body, headers = f"/v1/redemptions/{about['id']}/{call.verb}", dict[str, Json](), dict[str, str]()
        if call.verb == "cancel":
            body = {"reason": "declined"}
        elif call.verb == "extend":
            body = {"hold_s": 60}
        elif call.verb == "cancel_order":
            path, body = "/v1/redemptions/cancel", {"code": about["code"], "order_id": call.order, "reason": "refund_2"}
        elif call.verb != "confirm":
            path = "/v1/redemptions"
            body = {"code": about["code"], "customer_id": call.customer, "order_id": call.order}
            headers = {} if call.key is None else {"Idempotency-Key": call.key}
        through = self.world.others[door] if elsewhere else self.world.doors[door]
        return through.call("POST", path, body=body, headers=headers)

    # --- Explaining ----------------------------------------------------------------------------------------------------

    def explain(self, answers: Sequence[Answered]) -> None:
        """The model goes on from an order of the calls that explains their answers; there must be one."""
        self.excused = {one.call for one in answers if one.is_beside(answers)}
        state = self.explained(State(self.coupons, self.redemptions, self.expired_at), answers)
        asked = self.redemptions[answers[0].call.place].coupon
        before = len(asked.redemptions)
        assert state is not None, f"no order of these calls, to a coupon with {asked.free} free, {asked.fields}, explains them"
        self.coupons, self.redemptions, self.expired_at = state.coupons, state.redemptions, state.expired_at
        # Which of those that were made at once is the newest is told by their ids, and by nothing else.
        made = self.redemptions[answers[0].call.place].coupon.redemptions
        made[before:] = sorted(made[before:], key=lambda one: str(one.view["id"]))

    def explained(self, state: State, rest: Sequence[Answered]) -> State | None:
        """The state after the calls that are left; None if they cannot have been so answered."""
        if not rest:
            return state
        for one in rest:
            others = [other for other in rest if other is not one]
            if any(other.timed.ended < one.timed.began for other in others):
                continue
            after = copy.deepcopy(state)
            halves = self.is_explained(after, one)
            if halves is not None and (end := self.explained(after, [*others, *halves])) is not None:
                return end
        return None

    def is_explained(self, state: State, one: Answered) -> Sequence[Answered] | None:
        """If this is the answer to the call when it comes now: its second half, if it has one. The state is as it is after it.

        None: it is not.
        """
        asked = state.redemptions[one.call.place].coupon
        may_be_wrong = one.call in self.excused or self.may_be_wrong(state, asked)
        if one.timed.answer.code == "coupon_exhausted" and may_be_wrong:
            return []
        expected = state.answer(one.call)
        if expected.status == one.timed.answer.status == 200:
            if one.call.key is not None:
                return [one.then("show", state.place(expected.redemption))]
            if one.call.verb == "cancel_order":
                return [one.then("cancel found", state.place(asked.live_of_order(one.call.order)))]
        try:
            self.check(expected, one.timed)
        except AssertionError:
            return None
        return []

    def may_be_wrong(self, state: State, asked: Coupon) -> bool:
        """Whether a wrong "exhausted" is excused, as in `is_excused`."""
        now = time.monotonic()
        name = next(name for name, one in state.coupons.items() if one is asked)
        lately = sum(one.coupon is asked and now < at + WRONG_MAX_S for one, at in state.expired_at)
        return self.world.is_parted or now < self.unsure_until[name] or asked.free <= lately
