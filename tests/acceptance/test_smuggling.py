"""What two readers could read in two ways is no request: 400, the connection ends, and nothing behind it is answered.

RFC 9112 names the rules. Each probe is followed by a request to a place that does not exist; an answer to that one shows that
the server read on.
"""

import re
import socket
import time
from dataclasses import dataclass

import pytest

from tests.acceptance.conftest import StartUsher
from tests.stores import Admin
from tests.usher_process import Usher

ANSWER_TIMEOUT_S = 20.0
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b'{"code":"NONE","customer_id":"ann","order_id":"o-1"}'
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
TE = b"Transfer-Encoding: chunked\r\n"
CL = b"Content-Length: %d\r\n" % len(BODY)

PARSERS = {"c": {}, "python": {"AIOHTTP_NO_EXTENSIONS": "1"}}
"""The library has a parser in C, and one in Python for where that cannot be had."""


@pytest.fixture(scope="module", params=PARSERS)
def usher(request: pytest.FixtureRequest, start_usher: StartUsher) -> Usher:
    return start_usher(settings=PARSERS[request.param])


def post(headers: bytes, body: bytes = BODY, *, version: bytes = b"1.1") -> bytes:
    """A redemption with these headers; `KEY` becomes the API key."""
    start = (
        b"POST /v1/redemptions HTTP/%s\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer KEY\r\n" % version
    )
    return start + headers + b"\r\n" + body


def get(line: bytes = b"GET /livez HTTP/1.1", headers: bytes = b"Host: x\r\n") -> bytes:
    return line + b"\r\n" + headers + b"\r\n"


def coded(value: bytes, name: bytes = b"Transfer-Encoding:") -> bytes:
    return post(name + value + b"\r\n", CHUNKS)


def sized(value: bytes) -> bytes:
    return post(b"Content-Length:" + value + b"\r\n")


def chunked(body: bytes) -> bytes:
    return post(TE, body)


REFUSED = {
    # Two lengths: 6.1, 6.3.
    "length, then chunks": post(b"Content-Length: 5\r\n" + TE, CHUNKS),
    "chunks, then length": post(TE + b"Content-Length: 5\r\n", CHUNKS),
    "chunks, and length 0": post(TE + b"Content-Length: 0\r\n", CHUNKS),
    "length and identity": post(CL + b"Transfer-Encoding: identity\r\n"),
    "length and chunks in 1.0": post(CL + TE, CHUNKS, version=b"1.0"),
    "length twice": post(CL + CL),
    "two lengths": post(CL + b"Content-Length: 3\r\n"),
    "two lengths in 1.0": post(CL + b"Content-Length: 3\r\n", version=b"1.0"),
    # Transfer-Encoding other than chunked, alone and once: 6.1. An unknown coding may be 501; 400 is said here, since every
    # 5xx of this service is a 503.
    "chunked in two lines": post(TE + TE, CHUNKS),
    "chunked and identity in two lines": post(TE + b"Transfer-Encoding: identity\r\n", CHUNKS),
    **{f"coding {value!r}": coded(value) for value in (
        b" chunked, chunked", b" xchunked", b" chunked, identity", b" identity", b" identity, chunked", b" gzip, chunked", b"",
        b" chunked,", b" ,chunked", b" chunked;q=1", b' "chunked"', b"\x0bchunked", b" chunked\x0c", b" \xa0chunked",
        "chun\u212aed".encode(), b"\r\n chunked", b" chunked\x00",
    )},
    "space before the colon": coded(b" chunked", b"Transfer-Encoding :"),
    "tab before the colon": coded(b" chunked", b"Transfer-Encoding\t:"),
    "chunks in 1.0": post(TE, CHUNKS, version=b"1.0"),
    "chunks in 1.0, kept alive": post(b"Connection: keep-alive\r\n" + TE, CHUNKS, version=b"1.0"),
    # Content-Length is digits: RFC 9110 8.6.
    **{f"length {value!r}": sized(value) for value in (
        b" 52, 52", b" +52", b" -1", b" 0x34", b" 5_2", b"", b" 5 2", b" 52.0", b" 5e1", b"\x0b52", " \u0665".encode(),
        b" 18446744073709551615000",
    )},
    "length +1 of a GET": get(headers=b"Host: x\r\nContent-Length: +1\r\n"),
    # Lines end in CRLF: 2.2. A lone LF may be taken for one, a lone CR must not.
    "LF behind the request line": b"GET /livez HTTP/1.1\nHost: x\r\n\r\n",
    "LF behind a header": b"GET /livez HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "LF at the end of the head": b"GET /livez HTTP/1.1\r\nHost: x\r\n\n",
    "LF, then CRLF": b"GET /livez HTTP/1.1\r\nHost: x\n\r\n",
    "LF throughout": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "LF before the request": b"\n" + get(),
    "CR before the request": b"\r" + get(),
    "CR behind the request line": b"GET /livez HTTP/1.1\rHost: x\r\n\r\n",
    "CR CR LF": b"GET /livez HTTP/1.1\r\r\nHost: x\r\n\r\n",
    "CR behind a header": b"GET /livez HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "CR in a value": get(headers=b"Host: x\r\nA: b\rc\r\n"),
    "CR at the end of the head": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\r\n",
    # Chunks: 7.1.
    "LF behind a chunk's size": chunked(b"34\n" + BODY + b"\r\n0\r\n\r\n"),
    "LF behind a chunk": chunked(b"34\r\n" + BODY + b"\n0\r\n\r\n"),
    "LF behind the last size": chunked(b"34\r\n" + BODY + b"\r\n0\n\r\n"),
    "LF behind the last chunk": chunked(b"34\r\n" + BODY + b"\r\n0\r\n\n"),
    "LF in a trailer": chunked(b"34\r\n" + BODY + b"\r\n0\r\nA: b\n\r\n"),
    "CR behind a chunk's size": chunked(b"34\r" + BODY + b"\r\n0\r\n\r\n"),
    "nothing behind a chunk": chunked(b"34\r\n" + BODY + b"0\r\n\r\n"),
    "a chunk longer than its size": chunked(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a trailer without a colon": chunked(b"34\r\n" + BODY + b"\r\n0\r\nA b\r\n\r\n"),
    "a trailer behind a space": chunked(b"34\r\n" + BODY + b"\r\n0\r\n A: b\r\n\r\n"),
    **{f"chunk size {size!r}": chunked(size + b"\r\n" + BODY + b"\r\n0\r\n\r\n") for size in (
        b"-34", b"0x34", b"+34", b" 34", b"34 ", b"34\t", b"", b"g", b"3_4", b"34,", b"34 ;a", b"34;a\nb", b'34;a="\n"',
        b"100000000000000034",
    )},
    # Names and values: 5.1, RFC 9110 5.5. Folded lines: 5.2.
    **{f"header {line!r}": get(headers=b"Host: x\r\n" + line + b"\r\n") for line in (
        b" A: b", b"\tA: b", b"A: b\r\n c", b"A B: c", b": c", b"abc", b"A : b", b"A(: b", b"A\xe9: b", b"A\x00: b", b"A: \x00",
        b"A: b\x01c", b"A: b\x7fc",
    )},
    "a first header behind a space": get(headers=b" Host: x\r\n"),
    # Host: 3.2. And the absolute form must agree with it: 3.2.2.
    "no Host": get(headers=b""),
    "Host twice": get(headers=b"Host: x\r\nHost: x\r\n"),
    "two Hosts in 1.0": get(b"GET /livez HTTP/1.0", b"Host: x\r\nHost: y\r\n"),
    **{f"Host {host!r}": get(headers=b"Host: " + host + b"\r\n") for host in (
        b"", b"a b", b"a/b", b"a,b", b"u@h", b"x:port", b"x:123456", b"[::1", b"a?b", b"a#b", b"\xff", b"a\\b", b"x:80:80",
        b"http://x", b'a"b', b"a%zz",
    )},
    **{f"target {target!r}": get(b"GET " + target + b" HTTP/1.1") for target in (
        b"http://y/livez", b"http://u@x/livez", b"ftp://x/livez", b"http:///livez", b"http://x:foo/livez", b"*", b"livez",
        b"/livez#a", b"/livez\x00", b"/livez\x01", b"/livez\x7f", b"/livez\xff", b"/li vez", b"",
    )},
    "absolute form without Host": get(b"GET http://x/livez HTTP/1.1", b""),
    # The request line: 3.
    **{f"line {line!r}": get(line) for line in (
        b"GET  /livez HTTP/1.1", b"GET /livez  HTTP/1.1", b"GET\t/livez\tHTTP/1.1", b"GET /livez HTTP/1.1 ",
        b" GET /livez HTTP/1.1", b"get /livez HTTP/1.1", b"Get /livez HTTP/1.1", b"GET /livez", b"GET /livez HTTP/2.0",
        b"GET /livez HTTP/1.2", b"GET /livez HTTP/0.9", b"GET /livez HTTP/1.01", b"GET /livez HTTP/1", b"GET /livez http/1.1",
        b"GET /livez HTTP 1.1", b"GET /livez ICY/1.0", b"GET /livez RTSP/1.1", b"\x00GET /livez HTTP/1.1",
    )},
    "0.9": b"GET /livez\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": get(b"CONNECT x:80 HTTP/1.1"),
    "CONNECT with a path": get(b"CONNECT /livez HTTP/1.1"),
    "CONNECT with a body": post(CL).replace(b"POST /v1/redemptions", b"CONNECT x:80"),
    # A proxy that obeys takes the length away (RFC 9110 7.6.1).
    "Connection: content-length": post(b"Connection: content-length\r\n" + CL),
    "Connection: close, Transfer-Encoding": post(b"Connection: close, Transfer-Encoding\r\n" + TE, CHUNKS),
    # Limits: a line of 8 KiB, 64 headers.
    "a long line": get(headers=b"Host: x\r\nA: " + b"b" * 9_000 + b"\r\n"),
    "many headers": get(headers=b"Host: x\r\n" + b"A: b\r\n" * 100),
}  # fmt: skip


@dataclass(frozen=True)
class Taken:
    """A request that is odd and harmless: its status, why it may be taken, and whether it is the connection's last."""

    data: bytes
    status: int
    why: str
    last: bool = False


TAKEN = {
    "an empty line before": Taken(b"\r\n" + get(), 200, "must be ignored: 2.2"),
    "coding in upper case": Taken(coded(b" CHUNKED"), 404, "codings have no case: RFC 9110 10.1.4"),
    "tab before the value": Taken(coded(b"\tchunked"), 404, "white space before a value is none of it: 5.1"),
    "length with white space": Taken(sized(b" 52 \t"), 404, "white space around a value is none of it: 5.1"),
    "length with zeros": Taken(sized(b" 00052"), 404, "digits, and everybody reads 52: RFC 9110 8.6"),
    "size with zeros": Taken(chunked(b"0" * 30 + CHUNKS), 404, "hexadecimal digits, and everybody reads 52: 7.1"),
    "an extension": Taken(chunked(b'34;a="b"\r\n' + BODY + b"\r\n0;c\r\n\r\n"), 404, "unknown ones must be ignored: 7.1.1"),
    "a trailer": Taken(chunked(b"34\r\n" + BODY + b"\r\n0\r\nA: b\r\n\r\n"), 404, "is dropped: 7.1.2"),
    "Transfer_Encoding": Taken(post(b"Transfer_Encoding: chunked\r\n" + CL), 404, "another name, which nobody here reads"),
    "a byte above 127 in a value": Taken(get(headers=b"Host: x\r\nA: \xff\r\n"), 200, "opaque: RFC 9110 5.5"),
    "the absolute form": Taken(get(b"GET http://X/livez HTTP/1.1"), 200, "must be accepted: 3.2.2"),
    "an address for Host": Taken(get(headers=b"Host: [::1]:8080\r\n"), 200, "RFC 3986 3.2.2"),
    "GET with a body": Taken(get(headers=b"Host: x\r\nContent-Length: 3\r\n") + b"abc", 200, "is read and dropped"),
    "GET with chunks": Taken(get(headers=b"Host: x\r\n" + TE) + b"3\r\nabc\r\n0\r\n\r\n", 200, "is read and dropped"),
    "h2c": Taken(
        get(headers=b"Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"), 200, "may be ignored: RFC 9110 7.8", last=True
    ),
    "websocket": Taken(
        post(b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + CL), 404, "may be ignored: RFC 9110 7.8", last=True
    ),
}  # fmt: skip


def send(usher: Usher, data: bytes, *, last: bool) -> list[int]:
    """The statuses of all answers until the server closes, or until the request behind the probe has been answered."""
    with socket.create_connection(("127.0.0.1", usher.port), timeout=ANSWER_TIMEOUT_S) as connection:
        connection.sendall(data + SMUGGLED)
        answer = b""
        while last or b"route_not_found" not in answer:
            received = connection.recv(65_536)
            if not received:
                break
            answer += received
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(usher: Usher, api_key: str, name: str) -> None:
    """One answer, 400, and then the end of the connection."""
    assert [400] == send(usher, REFUSED[name].replace(b"KEY", api_key.encode()), last=True)


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_odd_and_harmless_is_taken(usher: Usher, api_key: str, name: str) -> None:
    """It is answered, and so is the next request, unless the answer says that it was the last."""
    probe = TAKEN[name]
    expected = [probe.status] if probe.last else [probe.status, 404]
    assert expected == send(usher, probe.data.replace(b"KEY", api_key.encode()), last=probe.last)


@pytest.mark.parametrize("name", ["line b'GET  /livez HTTP/1.1'", "LF before the request", "Host b'a b'"])
def test_a_later_request_is_looked_at_too(usher: Usher, name: str) -> None:
    """And whichever way its bytes are cut."""
    with socket.create_connection(("127.0.0.1", usher.port), timeout=ANSWER_TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(get())
        assert b" 200 " in connection.recv(65_536)
        answer = b""
        connection.sendall(REFUSED[name][:5])
        time.sleep(0.05)
        connection.sendall(REFUSED[name][5:])
        while received := connection.recv(65_536):
            answer += received
        assert [b"400"] == re.findall(rb"HTTP/1\.1 (\d+) ", answer)


def test_nothing_of_all_that_was_redeemed(usher: Usher, admin: Admin) -> None:
    assert 0 == admin.value("SELECT COUNT(*) FROM redemption")
    assert "request failed" not in usher.output
