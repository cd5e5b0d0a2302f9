"""Connections that are not made: who does not answer is tried again, who cannot be trusted is not."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.programs import OPENSSL, provide
from tests.client.scripted import REDEMPTION, Scripted, says
from usher_client import NotSecure, Patience, TryAgain, Unreachable, Usher

QUICK = Patience(deadline_s=30, try_timeout_s=20, connect_timeout_s=0.2, tries_max=3, pause_s=0.01)
GUARD_S = 15.0
"""More than all tries together take to connect, and less than one try may take."""
REQUEST_FILE = "[req]\ndistinguished_name = nobody\n[nobody]\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "request").write_text(REQUEST_FILE)
    openssl = provide(OPENSSL)
    made = openssl.command(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", str(folder / "request")),
        *("-subj", "/CN=usher", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(folder / "key"), "-out", str(folder / "certificate")),
    )
    subprocess.run(made, executable=openssl.path, env=openssl.full_environment(), check=True, capture_output=True, timeout=60)
    both = folder / "both"
    both.write_text((folder / "key").read_text() + (folder / "certificate").read_text())
    return both


@pytest.fixture
async def over_tls(certificate: Path) -> AsyncIterator[Scripted]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Scripted(context) as server:
        server.then(*[says(dict(REDEMPTION))] * 5)
        yield server


@contextlib.asynccontextmanager
async def answering(text: bytes) -> AsyncIterator[str]:
    """The https URL of a server that knows no TLS: it says this to whoever says something, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(text)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_certificate_that_nobody_vouches_for(over_tls: Scripted) -> None:
    """The key is not sent, and trying again would change nothing."""
    async with Usher(over_tls.url, "key", patience=QUICK) as usher:
        with pytest.raises(NotSecure, match="certificate") as raised:
            await usher.get("id")
    assert (1, False, []) == (raised.value.tries, raised.value.answer_lost, over_tls.asked)
    assert not isinstance(raised.value, TryAgain)


async def test_a_certificate_of_ones_own(over_tls: Scripted, certificate: Path) -> None:
    async with Usher(over_tls.url, "key", ssl=ssl.create_default_context(cafile=certificate)) as usher:
        assert REDEMPTION["id"] == (await usher.get("id")).id


async def test_another_hosts_certificate(over_tls: Scripted, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=certificate)
    async with Usher(over_tls.url.replace("127.0.0.1", "localhost"), "key", ssl=context, patience=QUICK) as usher:
        with pytest.raises(NotSecure):
            await usher.get("id")
    assert [] == over_tls.asked


async def test_no_tls_where_it_is_expected() -> None:
    """What speaks HTTP there cannot make anything of the handshake, and says so."""
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, Usher(url, "key", patience=QUICK) as usher:
        with pytest.raises(NotSecure) as raised:
            await usher.get("id")
    assert 1 == raised.value.tries


async def test_a_handshake_that_breaks_off() -> None:
    """As when a proxy is being replaced: that says nothing about who is there."""
    async with answering(b"") as url, Usher(url, "key", patience=QUICK) as usher:
        with pytest.raises(Unreachable) as raised:
            await usher.get("id")
    assert QUICK.tries_max == raised.value.tries


async def test_nobody_accepts() -> None:
    """Given up after the time for connecting, and nothing can have been carried out."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # Until the queue is full, whatever the system makes of a length of 0.
            one.setblocking(False)  # noqa: FBT003 - the standard library's signature
            one.connect_ex(address)
        async with asyncio.timeout(GUARD_S), Usher(f"http://127.0.0.1:{address[1]}", "key", patience=QUICK) as usher:
            with pytest.raises(Unreachable) as raised:
                await usher.coupons.create("GOLD20")
        for one in waiting:
            one.close()
    assert (QUICK.tries_max, False) == (raised.value.tries, raised.value.answer_lost)
