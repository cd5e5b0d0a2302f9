"""Operational failures, and nothing else: business answers are enum members, drivers' errors stop at the gateways.

The docstring of an error is its message.
"""


class UsherError(Exception):
    """Usher could not do this."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").partition("\n")[0])


class ConfigurationError(UsherError):
    """The configuration is wrong."""


class CounterUnavailable(UsherError):
    """Redis could not be reached, or its reply was lost: the script ran once or not at all."""


class LedgerUnavailable(UsherError):
    """MariaDB could not be reached: nothing was sent."""


class LedgerRefusedAccess(LedgerUnavailable):
    """MariaDB did not let the account in, or not do this: nothing was done."""


class LedgerReplyLost(LedgerUnavailable):
    """MariaDB's reply was lost: the statement may have been carried out, or may still be."""


class LedgerContended(UsherError):
    """MariaDB rolled the statement back because of a deadlock or a lock wait."""


class LedgerRefusedData(UsherError):
    """MariaDB refused a value of the statement."""


class SchemaNotCurrent(UsherError):
    """The ledger's schema is not the one that this version of Usher works with: run `usher migrate`."""


class CouponExists(UsherError):
    """A coupon with this code exists."""


class CouponNotFound(UsherError):
    """There is no coupon with this code."""


class VersionMismatch(UsherError):
    """The coupon was changed since the version that If-Match names."""


class CouponBusy(UsherError):
    """A large change of the coupon is under way: try again in some seconds."""


class LimitKindFixed(UsherError):
    """Whether a coupon is limited is fixed when it is created."""


class CustomerLimitLowered(UsherError):
    """The limit per customer can be raised, not lowered."""


class WindowEmpty(UsherError):
    """The coupon would end before it starts."""


class KeyNotInForce(UsherError):
    """The key was revoked or has expired meanwhile: `usher key create` makes a new one."""


class KeyExists(UsherError):
    """A key with this name exists."""


class MigrationChanged(UsherError):
    """A migration was changed after it had been applied."""


class Overloaded(UsherError):
    """The queue is full: nothing was claimed."""


class AddressUnavailable(UsherError):
    """Nobody can listen at this address."""
