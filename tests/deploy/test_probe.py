"""The program that asks a container's service for its health."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deploy import probe
from deploy.local import free_port

STATUS = {"/livez": 200, "/readyz": 503}


class Answering(BaseHTTPRequestHandler):
    """Answers as `STATUS` says."""

    def do_GET(self) -> None:
        body = b'{"status":"as told"}'
        self.send_response(STATUS[self.path])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
        """Nothing: standard error is for the tests."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with HTTPServer(("127.0.0.1", free_port()), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("USHER_LISTEN_PORT", str(server.server_port))
        # A proxy that an engine's configuration names is not for this.
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_200_is_healthy(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == probe.main(["/livez"])
    assert '200 {"status":"as told"}\n' == capsys.readouterr().out


def test_another_port_can_be_asked(port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("USHER_LISTEN_PORT", str(free_port()))
    assert 0 == probe.main(["/livez", str(port)])
    assert '200 {"status":"as told"}\n' == capsys.readouterr().out


def test_anything_else_is_not(port: int) -> None:
    assert 1 == probe.main(["/readyz"])


def test_no_answer_is_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("USHER_LISTEN_PORT", str(free_port()))
    assert 1 == probe.main(["/livez"])
    assert "no answer" in capsys.readouterr().out


def test_what_hangs_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        monkeypatch.setenv("USHER_LISTEN_PORT", str(silent.getsockname()[1]))
        assert 1 == probe.main(["/livez"])
