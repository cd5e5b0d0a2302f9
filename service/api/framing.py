"""What is no valid request by RFC 9112, though the library's parser takes it; and where a head has begun.

Two readers of the same bytes who find different requests in them let a client smuggle one past the first. So whatever a
proxy in front could read otherwise is refused: 400, and the connection ends, with all that came behind.
"""

import re
from collections.abc import Callable, Sized
from functools import lru_cache
from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

HEAD_LINE_MAX_BYTES: Final = 8 * 1024
"""Request line and each header line. The longest address in use is a list with three names in it, percent-encoded."""
HEADERS_MAX: Final = 64
HEAD_MAX_BYTES: Final = 64 * 1024
"""Of a head that comes in pieces. The two limits above would let each connection hold half a megabyte."""
LENGTH_MAX_DIGITS: Final = 18
"""The library takes a length of 2^64 - 1 for no body at all, and waits for it all the same."""

HEAD_END: Final = b"\r\n\r\n"
EMPTY_LINES: Final = re.compile(rb"[\r\n]*")
BEGINNING: Final = re.compile(rb"(?:\r\n)*[A-Z-]+ [^\s]+ HTTP/1\.[01]\r\n")
"""A request line as RFC 9112 3 writes it. llhttp also takes several spaces, other protocols, and LF or CR before it. Empty
lines before it are allowed (2.2): some clients send one behind a body."""
USUAL_BEGINNING: Final = b"POST /v1/redemptions HTTP/1.1\r\n"
"""Compared before all others are matched."""
PART_OF_BEGINNING: Final = re.compile(rb"(?:\r\n)*(?:\r|[^\r\n]+\r?)?\Z")
NO_LINE: Final = b"\n"
"""Stands for ends of lines that are no empty lines: whatever comes behind them is refused."""
HOST: Final = re.compile(
    r"(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+(?::\d{0,5})?|\[[0-9A-Fa-f:.]+\](?::\d{0,5})?", re.ASCII
)
"""uri-host [":" port] (RFC 9112 3.2), without the comma, which some take for a list."""
ABSOLUTE: Final = re.compile(r"https?://([^/?#@]+)(?:[/?].*)?", re.IGNORECASE | re.DOTALL)
MEANT_FOR_ALL: Final = frozenset({"content-length", "transfer-encoding", "host"})
"""Headers that `Connection` must not name (RFC 9110 7.6.1): a proxy that obeys would take the framing away."""
HOSTS_REMEMBERED: Final = 256

Fed = tuple[Any, bool, bytes]
"""What a parser returns: messages with their payloads, whether the protocol was changed, and the rest."""
Take = Callable[[RawRequestMessage, StreamReader], bool]


class Framing:
    """The library's parser with a stricter eye, in its place. Raises its exceptions for what is no request.

    Args:
        parser: the library's own.
        queued: requests that it has read and nobody has taken up. Behind too many of them it only keeps what comes.
        take: may take a request that came alone for itself; the library does not see it then.

    Attributes:
        head_bytes: of a head that has begun and is not complete, so many have come; 0 between requests and in bodies. Empty
            lines before a head do not begin it.
        in_body: the last request's head is complete, and its body is not.
    """

    __slots__ = (
        "_chunked",
        "_feed",
        "_head_tail",
        "_line",
        "_payload",
        "_queued",
        "_take",
        "feed_eof",
        "head_bytes",
        "in_body",
        "message_consumed",
        "pause_reading",
        "set_upgraded",
    )

    def __init__(self, parser: Any, queued: Sized, take: Take) -> None:  # noqa: ANN401  (there are two, in C and in Python)
        self._queued = queued
        self._take = take
        self._feed = parser.feed_data
        self.feed_eof = parser.feed_eof
        self.message_consumed = parser.message_consumed
        self.pause_reading = parser.pause_reading
        self.set_upgraded = parser.set_upgraded
        self.head_bytes = 0
        # The end of what has come of a head, so that a blank line is found though it came in two pieces.
        self._head_tail = b""
        # The last request's body.
        self._payload: StreamReader = EMPTY_PAYLOAD
        self._chunked = False
        self.in_body = False
        # What has come of a request line; None where it is not known that one is next.
        self._line: bytes | None = b""

    def feed_data(self, data: bytes) -> Fed:
        """As the parser's. `data` is empty when the parser is to go on with what it has."""
        line = self._line
        if line is not None and data:
            self._line = None
            if (line or not data.startswith(USUAL_BEGINNING)) and not self._look_at_line(line + data):
                return (), False, b""
        if self.in_body:
            return self._feed_body(data)
        fed: Fed = self._feed(data)
        if fed[0]:
            return self._taken(fed, data, 0)
        if data and (self.head_bytes or data.strip(b"\r\n")):
            self.head_bytes += len(data)
            self._head_tail = (self._head_tail + data)[1 - len(HEAD_END) :]
            if self.head_bytes > HEAD_MAX_BYTES and not self._queued:
                raise BadHttpMessage("The head is too long")
        return fed

    def _feed_body(self, data: bytes) -> Fed:
        """`data` goes on with a body, and may end it and bring more."""
        payload, had = self._payload, self._payload.total_bytes
        fed: Fed = self._feed(data)
        if fed[0]:
            return self._taken(fed, data, -1 if self._chunked else payload.total_bytes - had)
        if payload.is_eof():
            self.in_body = False
            if self._chunked:
                self._conclude(data, _last_blank_line(data), 0)
            else:
                self._conclude(data, payload.total_bytes - had, 0)
        return fed

    def _taken(self, fed: Fed, data: bytes, start: int) -> Fed:
        """Requests whose heads `data` completed. `start`: where in it the first of them begins or goes on; -1 if unknown."""
        messages = fed[0]
        if len(messages) == 1:
            message, payload = messages[0]
            if self._is_all(message, payload, data):
                return self._handed_on([(strict(message), payload)], fed)
        checked = [(strict(message), payload) for message, payload in messages]
        self._payload = payload = checked[-1][1]
        self._chunked = messages[-1][0].chunked
        self.in_body = not payload.is_eof()
        if self.in_body:
            self._line = None
            self.head_bytes = 0
            self._head_tail = b""
        else:
            whole = self._head_tail + data
            # Without a length it ends in a blank line. What is behind is less than a head, and has none but in front.
            has_length = payload.total_bytes and not self._chunked
            end = self._walk(whole, start, messages) if has_length else _last_blank_line(whole)
            self._conclude(whole, end, len(messages))
        return self._handed_on(checked, fed)

    def _is_all(self, message: RawRequestMessage, payload: StreamReader, data: bytes) -> bool:
        """Whether the request is all that there is in `data`, as nearly all come. Then it is concluded."""
        whole = data.find(HEAD_END) + len(HEAD_END) + payload.total_bytes == len(data)
        if not whole or self._head_tail or self.in_body or message.chunked or not payload.is_eof():
            return False
        self._payload, self._chunked = payload, False
        self.head_bytes = 0
        self._line = b"" if len(self._queued) + 1 < MAX_MSG_QUEUE_SIZE else None
        return True

    def _handed_on(self, checked: list[tuple[RawRequestMessage, StreamReader]], fed: Fed) -> Fed:
        """What the library is to see of it."""
        if len(checked) == 1 and self._take(*checked[0]):
            checked = []
        return checked, fed[1], fed[2]

    def _look_at_line(self, line: bytes) -> bool:
        """Whether the parser may have it; raises for a request line that is none. The rest of a head is strict there."""
        if BEGINNING.match(line):
            return True
        well_formed = PART_OF_BEGINNING.match(line) is not None
        if not line.strip(b"\r\n"):
            # Nobody is told that empty lines are none before a request comes: what is told could be taken for its answer.
            self._line = line[len(line) // 2 * 2 :] if well_formed else NO_LINE
            return well_formed
        if not well_formed:
            raise BadHttpMessage("Bad request line")
        self._line = line[-HEAD_LINE_MAX_BYTES:]
        return True

    def _walk(self, whole: bytes, start: int, messages: list[Any]) -> int:
        """Where the last of these requests ends; -1 if unknown. Each has the first blank line in it, and then its body."""
        end = start
        for message, payload in messages:
            if end < 0 or message.chunked:
                return -1
            if whole.startswith((b"\r", b"\n"), end) and (end != start or not self.head_bytes):
                found = EMPTY_LINES.match(whole, end)
                end = found.end() if found else end
            at = whole.find(HEAD_END, end)
            end = at + len(HEAD_END) + payload.total_bytes if at >= 0 else -1
        return end

    def _conclude(self, data: bytes, end: int, taken: int) -> None:
        """All requests in `data` are complete, and another begins at `end` in it, if that is where it can be.

        In doubt nothing is concluded: the next line is the parser's alone, and a silent rest counts as idle. `taken`: requests
        that are about to be queued. When there are too many, the parser keeps back what is behind them.
        """
        self._line = None
        self.head_bytes = 0
        self._head_tail = b""
        if not 0 < end <= len(data) or len(self._queued) + taken >= MAX_MSG_QUEUE_SIZE:
            return
        self._line = rest = data[end:]
        if rest and rest.strip(b"\r\n"):
            self.head_bytes = len(rest)
            self._head_tail = rest[1 - len(HEAD_END) :]


def _last_blank_line(data: bytes) -> int:
    """Where the last one ends; -1 if there is none."""
    at = data.rfind(HEAD_END)
    return at + len(HEAD_END) if at >= 0 else -1


def strict(message: RawRequestMessage) -> RawRequestMessage:
    """The message; raises BadHttpMessage for one that the parser should not have taken."""
    headers = message.headers
    # The parser in C has one object for each version.
    if message.version is not HttpVersion11:
        _check_version(message)
    if message.chunked and headers[hdrs.TRANSFER_ENCODING].lower() != "chunked":
        # Whatever else may have been done to the body, nobody here undoes it.
        raise BadHttpMessage("Transfer-Encoding is other than chunked")
    host = headers.get(hdrs.HOST)
    if host is not None and not is_host(host):
        raise BadHttpMessage("Host is no host")
    if len(headers.get(hdrs.CONTENT_LENGTH, "")) > LENGTH_MAX_DIGITS:
        raise BadHttpMessage("Content-Length is too long")
    path = message.path
    if path[0] != "/" or "#" in path or not path.isascii():
        _check_target(message, host)
    if hdrs.CONNECTION in headers:
        _check_connection(headers.getall(hdrs.CONNECTION))
    if message.method == hdrs.METH_CONNECT:
        raise BadHttpMessage("This is no proxy")
    if message.upgrade:
        # Nothing is upgraded. What follows may be of the protocol asked for, and the parser drops it: it is the last request.
        return message._replace(should_close=True)
    return message


def _check_version(message: RawRequestMessage) -> None:
    """1.0 has no chunks (RFC 9112 6.1), and a proxy that speaks it does not see them; of other versions we know nothing."""
    if message.version != HttpVersion11 and (message.version != HttpVersion10 or message.chunked):
        raise BadHttpMessage("Not for this version of HTTP")


def _check_target(message: RawRequestMessage, host: str | None) -> None:
    """`http://host/path` must be taken (RFC 9112 3.2.2) if it agrees with Host, as it must; `*` is for OPTIONS."""
    path = message.path
    if not path.isascii() or "#" in path:
        raise BadHttpMessage("Characters in the target that must be encoded")
    if message.method == hdrs.METH_OPTIONS and path == "*":
        return
    absolute = ABSOLUTE.fullmatch(path)
    if absolute is None:
        raise BadHttpMessage("Not a target of this server")
    if host is None or absolute[1].lower() != host.lower():
        raise BadHttpMessage("The target and Host differ")


def _check_connection(values: list[str]) -> None:
    for value in values:
        if not MEANT_FOR_ALL.isdisjoint(option.strip(" \t").lower() for option in value.split(",")):
            raise BadHttpMessage("Connection names what is meant for all")


@lru_cache(HOSTS_REMEMBERED)
def is_host(text: str) -> bool:
    """Whether this may stand in Host: a name or an address, and a port if any."""
    return HOST.fullmatch(text) is not None
