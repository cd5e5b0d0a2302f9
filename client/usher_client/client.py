"""`Usher`: the calls that a checkout makes."""

import ssl as tls
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

from usher_client.coupons import Coupons
from usher_client.patience import Patience
from usher_client.problems import RedemptionNotFound
from usher_client.records import Redemption, RedemptionStatus, Validation
from usher_client.transport import Answer, Call, Transport, path_part

PATH: Final = "/v1/redemptions"
HOLD_S: Final = 600
"""Ten minutes: longer than most payments take, and short enough that an abandoned checkout is soon forgotten."""
CONNECTIONS: Final = 100


def random_request_id() -> str:
    """A request id that nobody else has."""
    return uuid.uuid4().hex


class Usher:
    """A connection pool to one Usher; to be entered once and used by the whole process.

        async with Usher("https://usher.example", key) as usher:
            redemption = await usher.reserve("GOLD20", customer_id="ann", order_id="order-1")

    Every call tries again after a 5xx, a time-out and a broken connection, with the same request, until `patience` ends; never
    after anything else. All methods may be called at once from any number of tasks. A task that is cancelled leaves its call
    where it is: it may have been carried out, and the same call finds out.

    Every call raises `TryAgain` when it had no answer, `Refused` when the answer is no, another `Problem` when the call or its
    key is wrong, and `NotSecure` when the address cannot be trusted. A URL that cannot be one is a ValueError, and so is a
    text that UTF-8 cannot write.

    Args:
        url: where Usher serves, such as `http://usher:8080`; may have a path.
        key: an API key of scope `redeem`, or of the scope that the call needs. White space around it is left out.
        patience: how long a call may take, and how it tries again.
        connections: at most so many at a time; further calls wait for one.
        ssl: a context for certificates of your own; True checks them against the machine's.
        request_ids: makes an id for each call, such as that of a trace: 1 to 120 letters, digits and `._:/+=@-`. Its tries have
            `-1`, `-2` and so on behind it, and are found under these in Usher's log.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        patience: Patience | None = None,
        connections: int = CONNECTIONS,
        ssl: tls.SSLContext | bool = True,
        request_ids: Callable[[], str] = random_request_id,
    ) -> None:
        self._transport = Transport(url, key.strip(), patience=patience or Patience(), request_ids=request_ids)
        self._open = partial(self._transport.open, connections=connections, ssl=ssl)
        self.coupons = Coupons(self._transport)

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close()

    # --- Redeeming ---------------------------------------------------------------------------------------------

    async def redeem(self, code: str, *, customer_id: str, order_id: str, idempotency_key: str | None = None) -> Redemption:
        """The order's redemption: a new one, confirmed at once, or the live one that it has already.

        Mind `counts` of what comes back. An order that holds gets its hold, which only `confirm` confirms.

        Args:
            code: what the customer typed.
            customer_id: the limit per customer counts by it.
            order_id: the same for every attempt to pay this order, never used for another one.
            idempotency_key: stands for the redemption that it makes or finds, for ever, whatever becomes of it.
        """
        return await self._redeem(code, customer_id, order_id, idempotency_key=idempotency_key)

    async def reserve(
        self,
        code: str,
        *,
        customer_id: str,
        order_id: str,
        hold_s: int = HOLD_S,
        idempotency_key: str | None = None,
    ) -> Redemption:
        """A hold for the order for so many seconds, 1 to 86,400; or the live redemption that it has already, as it is.

        To be confirmed when the money is there, and cancelled when it will not be. If nobody does, it ends by itself.
        """
        return await self._redeem(code, customer_id, order_id, hold_s=hold_s, idempotency_key=idempotency_key)

    async def confirm(self, redemption_id: str) -> Redemption:
        """Makes a hold last; a confirmed one stays as it is. Raises AlreadyCancelled, ReservationExpired: no discount."""
        return _redemption(await self._transport.send(Call("POST", _path(redemption_id, "confirm"))))

    async def extend(self, redemption_id: str, *, hold_s: int = HOLD_S) -> Redemption:
        """The hold lasts for so many seconds from now on. Raises AlreadyConfirmed, AlreadyCancelled, ReservationExpired."""
        return _redemption(await self._transport.send(Call("POST", _path(redemption_id, "extend"), {"hold_s": hold_s})))

    async def cancel(self, redemption_id: str, *, reason: str | None = None) -> Redemption:
        """Gives the use back, of a hold and of a confirmed one. One that has ended already stays as it is.

        `reason`: 1 to 64 of a-z, 0-9 and `_`, such as `card_declined`.
        """
        body = {} if reason is None else {"reason": reason}
        return _redemption(await self._transport.send(Call("POST", _path(redemption_id, "cancel"), body)))

    async def cancel_order(self, code: str, *, order_id: str, reason: str | None = None) -> Redemption:
        """As `cancel`, for the order's live redemption, where its id is not known. Raises RedemptionNotFound: there is none.

        When an answer was lost and there is no live redemption on the next try, that try has cancelled it: the order's
        newest redemption is returned, if it is a cancelled one.
        """
        body = {"code": code, "order_id": order_id, **({} if reason is None else {"reason": reason})}
        try:
            return _redemption(await self._transport.send(Call("POST", f"{PATH}/cancel", body)))
        except RedemptionNotFound as error:
            if not error.answer_lost:
                raise
            query: dict[str, str | int | None] = {"code": code, "order_id": order_id, "page_size": 1}
            newest = _redemptions(await self._transport.send(Call("GET", PATH, query=query)))
            if not newest or newest[0].status is not RedemptionStatus.CANCELLED:
                raise
            return newest[0]

    # --- Reading -----------------------------------------------------------------------------------------------

    async def get(self, redemption_id: str) -> Redemption:
        """The redemption as it is now. Raises RedemptionNotFound."""
        return _redemption(await self._transport.send(Call("GET", _path(redemption_id))))

    async def list(
        self,
        *,
        code: str | None = None,
        customer_id: str | None = None,
        order_id: str | None = None,
        status: str | None = None,
        page_size: int | None = None,
    ) -> AsyncIterator[Redemption]:
        """All redemptions that match, newest first; at least one of code, customer_id and order_id. Fetched by the page.

        `status`: one of RedemptionStatus. `page_size`: 1 to 200. Each page is a call, with the patience of one.
        """
        query = {"code": code, "customer_id": customer_id, "order_id": order_id, "status": status, "page_size": page_size}
        async for page in self._transport.pages(PATH, query):
            for redemption in _redemptions(page):
                yield redemption

    async def validate(self, code: str, *, customer_id: str | None = None) -> Validation:
        """Whether redeeming would succeed now; touches nothing and promises nothing."""
        body = {"code": code, **({} if customer_id is None else {"customer_id": customer_id})}
        return (await self._transport.send(Call("POST", "/v1/validations", body))).read(Validation.read)

    async def _redeem(
        self, code: str, customer_id: str, order_id: str, *, hold_s: int | None = None, idempotency_key: str | None = None
    ) -> Redemption:
        body: dict[str, str | int] = {"code": code, "customer_id": customer_id, "order_id": order_id}
        if hold_s is not None:
            body["hold_s"] = hold_s
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return _redemption(await self._transport.send(Call("POST", PATH, body, headers=headers)))


def _path(redemption_id: str, verb: str = "") -> str:
    return f"{PATH}/{path_part(redemption_id)}" + (f"/{verb}" if verb else "")


def _redemption(answer: Answer) -> Redemption:
    return answer.read(partial(Redemption.read, clock_ahead=answer.clock_ahead))


def _redemptions(page: Answer) -> Sequence[Redemption]:
    return page.items(partial(Redemption.read, clock_ahead=page.clock_ahead))
