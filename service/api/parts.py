"""What the handlers work with: the app's typed keys, set by the composition root."""

from typing import Final, Protocol

from aiohttp import web

from service.api.authentication import Authenticator
from service.api.problems import Problems
from service.api.readiness import Readiness
from service.config import Settings
from service.counts import Counts
from service.ledger import Ledger
from service.life import Life
from service.metrics import Metrics
from service.model import Order, Redeemed
from service.validations import Validations


class Redeems(Protocol):
    """What the API needs of the flow: `service.redeem.Redeemer`."""

    async def redeem(self, order: Order, arrived_at: float | None = None) -> Redeemed:
        """One redemption; raises only Overloaded. `arrived_at`: in seconds of the loop's clock."""
        ...

    async def find_live(self, code: str, order_id: str, until: float) -> bytes | None:
        """The id of the order's live redemption; `until` in seconds of the loop's clock."""
        ...

    async def coupon_changed(self, code: str) -> None:
        """The ledger's coupon is new or was changed: the counter is loaded anew, what is remembered forgotten."""
        ...


SETTINGS: Final = web.AppKey("settings", Settings)
LEDGER: Final = web.AppKey("ledger", Ledger)
REDEEMER: Final[web.AppKey[Redeems]] = web.AppKey("redeemer")
LIFE: Final = web.AppKey("life", Life)
VALIDATIONS: Final = web.AppKey("validations", Validations)
AUTHENTICATOR: Final = web.AppKey("authenticator", Authenticator)
READINESS: Final = web.AppKey("readiness", Readiness)
COUNTS: Final = web.AppKey("counts", Counts)
METRICS: Final = web.AppKey("metrics", Metrics)
PROBLEMS: Final = web.AppKey("problems", Problems)
