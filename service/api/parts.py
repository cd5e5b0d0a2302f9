"""What the handlers work with: the app's typed keys, set by the composition root."""

from typing import Final, Protocol

from aiohttp import web

from service.api.authentication import Authenticator
from service.api.problems import Problems
from service.api.readiness import Readiness
from service.config import Settings
from service.ledger import Ledger
from service.model import Order, Redeemed


class Redeems(Protocol):
    """What the API needs of the flow: `service.redeem.Redeemer`."""

    async def redeem(self, order: Order, arrived_at: float | None = None) -> Redeemed:
        """One redemption; raises only Overloaded. `arrived_at`: in seconds of the loop's clock."""
        ...

    async def coupon_changed(self, code: str) -> None:
        """The ledger's coupon is new or was changed: the counter is loaded anew, what is remembered forgotten."""
        ...


SETTINGS: Final = web.AppKey("settings", Settings)
LEDGER: Final = web.AppKey("ledger", Ledger)
REDEEMER: Final[web.AppKey[Redeems]] = web.AppKey("redeemer")
AUTHENTICATOR: Final = web.AppKey("authenticator", Authenticator)
READINESS: Final = web.AppKey("readiness", Readiness)
PROBLEMS: Final = web.AppKey("problems", Problems)
