"""Ports for private servers."""

import random
import socket

PORTS = range(20_000, 32_000)
"""Below 32768: a client that polls a closed port above it can be given that very port and connect to itself."""


def free_port() -> int:
    """A port of `PORTS` on which nobody listens now; processes that ask at once seldom get the same."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port between {PORTS.start} and {PORTS.stop} is free")
