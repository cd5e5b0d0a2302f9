"""`usher.coupons`: the calls of those who make coupons."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from usher_client.records import Coupon, CouponStatus, CouponVersion
from usher_client.transport import Call, Transport, path_part

PATH: Final = "/v1/coupons"


class Unchanged(Enum):
    """What a field of `change` is when it is not given: None would clear it."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


class Coupons:
    """Creates, reads and changes coupons; writing needs a key of scope `admin`, reading one of scope `read`.

    Limits and times may be None: unlimited, and open on that side. Times are aware; a naive one raises ValueError.

    `create` and `change` are not sent again once an answer was lost: then nobody could say whether a 409 `coupon_exists` or a
    412 `version_mismatch` is about this very call. They raise `TryAgain` with `answer_lost`; read the coupon, and decide.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        code: str,
        *,
        max_redemptions: int | None = None,
        max_per_customer: int | None = None,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        status: str = CouponStatus.ACTIVE,
        metadata: Mapping[str, Any] | None = None,
    ) -> Coupon:
        """A new coupon. Raises CouponExists."""
        body = {
            "code": code,
            "max_redemptions": max_redemptions,
            "max_per_customer": max_per_customer,
            "starts_at": _said(starts_at),
            "ends_at": _said(ends_at),
            "status": status,
            "metadata": metadata,
        }
        return (await self._transport.send(Call("POST", PATH, body, repeatable=False))).read(Coupon.read)

    async def get(self, code: str) -> Coupon:
        """The coupon with its `usage`. Raises CouponNotFound."""
        return (await self._transport.send(Call("GET", _path(code)))).read(Coupon.read)

    async def change(
        self,
        code: str,
        *,
        if_match: int | None = None,
        max_redemptions: int | Unchanged | None = UNCHANGED,
        max_per_customer: int | Unchanged | None = UNCHANGED,
        starts_at: datetime | Unchanged | None = UNCHANGED,
        ends_at: datetime | Unchanged | None = UNCHANGED,
        status: str | Unchanged = UNCHANGED,
        metadata: Mapping[str, Any] | Unchanged | None = UNCHANGED,
    ) -> Coupon:
        """The coupon with what was given in place of what was there. No later redemption goes by the old values.

        With `if_match`, only if that is its `version`. Whether it is limited at all is fixed, and its limit per customer can be
        raised only. Raises CouponNotFound, VersionMismatch, LimitKindFixed, CustomerLimitLowered.
        """
        named = {
            "max_redemptions": max_redemptions,
            "max_per_customer": max_per_customer,
            "starts_at": starts_at if isinstance(starts_at, Unchanged) else _said(starts_at),
            "ends_at": ends_at if isinstance(ends_at, Unchanged) else _said(ends_at),
            "status": status,
            "metadata": metadata,
        }
        body = {name: value for name, value in named.items() if not isinstance(value, Unchanged)}
        headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
        call = Call("PATCH", _path(code), body, headers=headers, repeatable=False)
        return (await self._transport.send(call)).read(Coupon.read)

    async def list(
        self, *, status: str | None = None, prefix: str | None = None, page_size: int | None = None
    ) -> AsyncIterator[Coupon]:
        """All coupons that match, by code, without their usage. `prefix`: how the code begins. Fetched by the page."""
        query = {"status": status, "prefix": prefix, "page_size": page_size}
        async for page in self._transport.pages(PATH, query):
            for coupon in page.items(Coupon.read):
                yield coupon

    async def history(self, code: str, *, page_size: int | None = None) -> AsyncIterator[CouponVersion]:
        """All changes of the coupon, newest first. Raises CouponNotFound."""
        async for page in self._transport.pages(f"{_path(code)}/history", {"page_size": page_size}):
            for version in page.items(CouponVersion.read):
                yield version


def _path(code: str) -> str:
    return f"{PATH}/{path_part(code)}"


def _said(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("a time without a zone could be any of many")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
