"""The stores' URLs: whether one has the right shape, and what of it may be shown. Nothing here repeats a password."""

import ipaddress
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

MYSQL_FORM: Final = "mysql://user:password@host:port/name"
REDIS_FORM: Final = "redis://user:password@host:port/number or rediss://…"
SPECIAL: Final = "what is special in a password must be percent-encoded"


def check_mysql_url(url: SecretStr) -> None:
    """Raises ValueError unless it is `mysql://user[:password]@host[:port]/name`; it says what is wrong, never the value."""
    parts = _split(url, ("mysql",))
    if not parts.username:
        raise ValueError("names no user")
    if not parts.path.removeprefix("/"):
        raise ValueError("names no database after the host")
    if "?" in url.get_secret_value():
        raise ValueError(f"has a ? in it: there are no options, and {SPECIAL}")


def check_redis_url(url: SecretStr) -> None:
    """Raises ValueError unless it is `redis://[user:password@]host[:port][/number]` or `rediss://…`, as `check_mysql_url`."""
    number = _split(url, ("redis", "rediss")).path.removeprefix("/")
    if number and not (number.isascii() and number.isdecimal()):
        raise ValueError("names a database after the host that is no number")


def _split(url: SecretStr, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL of one of these schemes, with a host and a sane port."""
    text = url.get_secret_value()
    if not text.lower().startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError("does not begin with " + " or ".join(f"{scheme}://" for scheme in schemes))
    if not text.isprintable() or " " in text:
        raise ValueError(f"has a blank or a line break in it; {SPECIAL}")
    if "#" in text:
        raise ValueError(f"has a # in it; {SPECIAL}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        # What stands there may be half a password, and the library's message would show it.
        raise ValueError(f"names a port that is no number from 1 to 65535; {SPECIAL}") from None
    if port == 0:
        raise ValueError("names port 0")
    if not parts.hostname:
        raise ValueError("names no host")
    return parts


def address(url: SecretStr) -> str:
    """Where a store is, fit for messages: host, port and name without user and password."""
    parts = urlsplit(url.get_secret_value())
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    default_port = 3306 if parts.scheme == "mysql" else 6379
    return f"{host}:{parts.port or default_port}{unquote(parts.path)}"


def account(url: SecretStr) -> str:
    """Who comes to a store; empty where the URL does not say."""
    return unquote(urlsplit(url.get_secret_value()).username or "")


def needs_password(url: SecretStr) -> bool:
    """Whether it names none, although the store is on another machine."""
    parts = urlsplit(url.get_secret_value())
    return not parts.password and not _is_this_machine(parts.hostname or "")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
