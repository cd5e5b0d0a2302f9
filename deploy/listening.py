"""Where the service of `make run` is going to listen, looked at before anything slow is done."""

import errno
import os
import socket
from dataclasses import dataclass


class ListenError(Exception):
    """Nobody can listen there; the message is for the person at the terminal."""


@dataclass(frozen=True)
class Address:
    """Where the service listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """For a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - it is looked up
        return f"http://{host}:{self.port}"


def listen_address() -> Address:
    """Where the service is going to listen.

    Raises:
        ListenError: nobody can listen there now.
    """
    host = os.environ.get("USHER_LISTEN_HOST") or "127.0.0.1"
    text = os.environ.get("USHER_LISTEN_PORT") or "8080"
    if not text.isdecimal() or not 0 <= int(text) <= 65535:  # noqa: PLR2004 - what a port can be
        raise ListenError(f"USHER_LISTEN_PORT is {text!r}; a port is a number from 1 to 65535")
    address = Address(host, int(text))
    if address.port == 0:
        raise ListenError(
            "USHER_LISTEN_PORT is 0, by which the system chooses a port that `make run` would not know: "
            "it waits for the service there, and prints the address. Choose one from 1 to 65535"
        )
    try:
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise _no_such_host(host, exc) from exc
    for family, _, _, _, name in found:
        _probe(family, name, address)
    return address


def _probe(family: int, name: tuple[object, ...], address: Address) -> None:
    """Listens for a moment.

    Raises:
        ListenError: it cannot; says whether that is the host's fault or the port's.
    """
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if family == socket.AF_INET6:
                # As the service does; otherwise `::` would occupy 0.0.0.0 as well.
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(name)
            probe.listen()
        except OSError as exc:
            if exc.errno == errno.EADDRNOTAVAIL:
                raise _no_such_host(address.host, exc) from exc
            other = "choose another one: USHER_LISTEN_PORT=8081 make run"
            raise ListenError(f"port {address.port} on {address.host} cannot be had ({exc.strerror}); {other}") from exc


def _no_such_host(host: str, exc: OSError) -> ListenError:
    known = "127.0.0.1 is for this machine alone, 0.0.0.0 for everybody who can reach it"
    return ListenError(f"USHER_LISTEN_HOST is {host!r}, which is no address of this machine ({exc.strerror}); {known}")
