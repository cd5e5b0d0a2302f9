"""`/openapi.json`, and `/docs`, a page that shows it. They need no key and work without the internet.

The page is Swagger UI, in the folder `swagger`. All is read or built once, when the application is made, kept compressed, and
asked for again only when it has changed.
"""

import gzip
import hashlib
import re
from collections.abc import Iterable
from importlib import resources
from typing import Final

import orjson
from aiohttp import hdrs, web

from service.api.openapi import document
from service.api.written import JSON

PAGE: Final = "/docs"
FOLDER: Final = resources.files("service.api") / "swagger"
ACCEPTS_GZIP: Final = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[\d.]+\s*)?(?:,|$)", re.IGNORECASE)
TAG_CHARS: Final = 20
ASK_ANEW: Final = "no-cache"
KEEP: Final = "max-age=86400"
"""Swagger UI's own files change with a release; a day later nobody has old ones beside a new page."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The page can load from, and send to, nobody but this service, and no script runs but the ones here."""

HTML: Final = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Usher: the HTTP API</title>
<link rel="icon" type="image/png" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
"""Addresses are relative, so that it works behind a proxy that serves it below a path of its own."""

START: Final = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  // There is a validator at a host of Swagger's; the document stays here.
  validatorUrl: null,
});
"""


class File:
    """A file that is served. `packed`: its bytes, compressed by gzip."""

    def __init__(self, packed: bytes, media_type: str, *, cache: str) -> None:
        self._packed = packed
        self._media_type = media_type
        # Weak, since the packed and the plain bytes share it.
        self._tag = f'W/"{hashlib.sha256(packed).hexdigest()[:TAG_CHARS]}"'
        self._headers = {
            hdrs.ETAG: self._tag,
            hdrs.CACHE_CONTROL: cache,
            hdrs.VARY: hdrs.ACCEPT_ENCODING,
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    async def answer(self, request: web.Request) -> web.Response:
        """200, or 304 to somebody who has it; plain for the few who do not unpack."""
        if self._is_known(request.headers.getall(hdrs.IF_NONE_MATCH, ())):
            return web.Response(status=304, headers=self._headers)
        headers = {**self._headers, hdrs.CONTENT_TYPE: self._media_type}
        if not ACCEPTS_GZIP.search(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
            return web.Response(body=gzip.decompress(self._packed), headers=headers)
        return web.Response(body=self._packed, headers=headers | {hdrs.CONTENT_ENCODING: "gzip"})

    def _is_known(self, sent: Iterable[str]) -> bool:
        """Whether If-None-Match names it; tags are compared weakly (RFC 9110, 13.1.2)."""
        tags = {tag.strip().removeprefix("W/") for line in sent for tag in line.split(",")}
        return not tags.isdisjoint({"*", self._tag.removeprefix("W/")})


def routes(problem_base_uri: str) -> tuple[web.RouteDef, ...]:
    """The routes of the document and the page. `problem_base_uri`: what the type of a problem begins with."""
    openapi = gzip.compress(orjson.dumps(document(problem_base_uri)), mtime=0)
    files = {
        "/openapi.json": File(openapi, JSON, cache=ASK_ANEW),
        PAGE: File(gzip.compress(HTML, mtime=0), "text/html; charset=utf-8", cache=ASK_ANEW),
        f"{PAGE}/start.js": File(gzip.compress(START, mtime=0), "text/javascript; charset=utf-8", cache=ASK_ANEW),
        f"{PAGE}/favicon.png": File(gzip.compress(_read("favicon.png"), mtime=0), "image/png", cache=KEEP),
        f"{PAGE}/swagger-ui.css": File(_read("swagger-ui.css.gz"), "text/css; charset=utf-8", cache=KEEP),
        f"{PAGE}/swagger-ui-bundle.js": File(_read("swagger-ui-bundle.js.gz"), "text/javascript; charset=utf-8", cache=KEEP),
    }
    return tuple(web.get(path, file.answer) for path, file in files.items())


def _read(name: str) -> bytes:
    return (FOLDER / name).read_bytes()
