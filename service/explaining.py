"""What keeps a store from being used, in words for those who run commands: which store, where, what is wrong, what to try."""

from service import config, errors, log
from service.addresses import account, address
from service.config import Settings
from service.printing import printable
from service.redis_reasons import ACCESS_REFUSED


def explain_ledger(chosen: Settings, error: errors.UsherError, *, administers: bool) -> str:
    """A line that names the ledger, where it is, what is wrong, and what to try. `administers`: it changes schema or keys."""
    url = chosen.migration_url if administers else chosen.database_url
    reason = log.mask_text(str(error)).rstrip(".")
    return f"the ledger (MariaDB) at {address(url)} cannot be used: {reason}. {_what_to_try(chosen, error, administers)}"


def _what_to_try(chosen: Settings, error: errors.UsherError, administers: bool) -> str:  # noqa: FBT001  (handed on)
    is_own = administers and chosen.migration_database_url.get_secret_value()
    variable = "USHER_MIGRATION_DATABASE_URL" if is_own else "USHER_DATABASE_URL"
    match error:
        case errors.LedgerRefusedAccess():
            who = printable(account(chosen.migration_url if administers else chosen.database_url))
            other = "; this command takes USHER_MIGRATION_DATABASE_URL where that is set" if administers and not is_own else ""
            return f"It was asked as {who}, from {variable}{other}."
        case errors.LedgerReplyLost():
            return "What was to be done may have been done all the same: look before you repeat it."
        case errors.LedgerUnavailable():
            if "read-only" in str(error):
                return f"Is the one in {variable} a replica, or a failover under way?"
            unset = "" if _is_set(chosen, variable) else ", which is not set: this is the default"
            return f"Check host and port in {variable}{unset}, and that it runs."
        case errors.LedgerContended():
            return "Others hold what this command needs; try again."
    return "Nothing was done."


def _is_set(chosen: Settings, variable: str) -> bool:
    return variable.removeprefix(config.PREFIX).lower() in chosen.model_fields_set


def explain_redis(chosen: Settings, error: errors.CounterUnavailable) -> str:
    """A line that names Redis, where it is, what is wrong, and what to try."""
    if str(error) in ACCESS_REFUSED:
        who = printable(account(chosen.redis_url))
        asked = f"as {who}" if who else "without a user's name"
        tries = f"It was asked {asked}, from USHER_REDIS_URL; `ACL LOG` in Redis shows what was refused."
    else:
        unset = "" if _is_set(chosen, "USHER_REDIS_URL") else ", which is not set: this is the default"
        tries = f"Check host and port in USHER_REDIS_URL{unset}, and that it runs."
    return f"{what_ails_redis(chosen, error)}. {tries}"


def what_ails_redis(chosen: Settings, error: errors.CounterUnavailable) -> str:
    """A clause that names Redis, where it is, and what is wrong."""
    reason = log.mask_text(str(error)).rstrip(".")
    return f"Redis at {address(chosen.redis_url)} (USHER_REDIS_URL) cannot be used: {reason}"
