"""The OpenAPI document and the page that shows it, as they are served."""

import gzip
import hashlib
import re

import aiohttp
import pytest

from service.api.documents import FOLDER, PAGE, POLICY
from service.api.openapi import document


async def test_the_document_is_served(client: aiohttp.ClientSession) -> None:
    async with client.get("/openapi.json") as response:
        assert (200, "application/json") == (response.status, response.headers["Content-Type"])
        assert document("https://usher.invalid/problems/") == await response.json()
        assert "gzip" == response.headers["Content-Encoding"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/swagger-ui-bundle.js"])
async def test_what_has_not_changed_is_not_sent_again(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as response:
        tag = response.headers["ETag"]
    for sent, status in ((tag, 304), (f'"x", {tag}', 304), (tag.removeprefix("W/"), 304), ("*", 304), ('W/"x"', 200)):
        async with client.get(path, headers={"If-None-Match": sent}) as response:
            assert (status, tag) == (response.status, response.headers["ETag"])
            assert (status == 304) == (not await response.read())


@pytest.mark.parametrize(
    ("accepts", "packed"),
    [
        ("gzip, deflate", True),
        ("br;q=1.0, gzip;q=0.8", True),
        ("*", True),
        ("gzip;q=0", False),
        ("identity", False),
        ("", False),
    ],
)
async def test_packed_for_those_who_unpack(client: aiohttp.ClientSession, accepts: str, packed: bool) -> None:
    async with client.get("/docs", headers={"Accept-Encoding": accepts}) as response:
        assert ("gzip" if packed else None) == response.headers.get("Content-Encoding")
        assert (await response.text()).startswith("<!doctype html>")


async def test_the_page_works_offline(client: aiohttp.ClientSession) -> None:
    """It loads what is here, names no other host, and its policy forbids all others."""
    async with client.get(PAGE) as response:
        html, policy = await response.text(), response.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert ["docs/favicon.png", "docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js"] == loaded
    for address in loaded:
        async with client.get(f"/{address}") as response:
            assert (200, policy) == (response.status, response.headers["Content-Security-Policy"])
            text = await response.text(errors="replace")
        if address.endswith("start.js"):
            assert "//" not in re.sub(r"^ *//.*", "", text, flags=re.MULTILINE)
            assert "validatorUrl: null" in text
        if address.endswith(".css"):
            assert not re.findall(r"@import|url\((?!['\"]?data:)[^)]*", text)
    assert "//" not in html
    assert POLICY == policy
    sources = {source for rule in policy.split("; ") for source in rule.split()[1:]}
    assert {"'none'", "'self'", "data:"} == sources


def test_swagger_ui_is_the_one_that_is_named() -> None:
    listed = dict(re.findall(r"\| ([\w.-]+\.gz) \| ([0-9a-f]{64}) \|", (FOLDER / "README.md").read_text(encoding="utf-8")))
    packed = {file.name: file for file in FOLDER.iterdir() if file.name.endswith(".gz")}
    assert listed == {name: hashlib.sha256(gzip.decompress(file.read_bytes())).hexdigest() for name, file in packed.items()}


@pytest.mark.parametrize(
    ("path", "media_type", "cache"),
    [
        ("/openapi.json", "application/json", "no-cache"),
        ("/docs", "text/html; charset=utf-8", "no-cache"),
        ("/docs/start.js", "text/javascript; charset=utf-8", "no-cache"),
        ("/docs/favicon.png", "image/png", "max-age=86400"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8", "max-age=86400"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8", "max-age=86400"),
    ],
)
async def test_how_it_is_kept_and_taken(client: aiohttp.ClientSession, path: str, media_type: str, cache: str) -> None:
    """What changes with a release is asked for anew; caches keep packed and plain apart; nobody guesses at types."""
    expected = {
        "Cache-Control": cache,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    async with client.get(path) as response:
        assert (200, media_type) == (response.status, response.headers["Content-Type"])
        assert expected == {name: response.headers[name] for name in expected}
        tag = response.headers["ETag"]
    async with client.get(path, headers={"If-None-Match": tag}) as response:
        assert (304, expected) == (response.status, {name: response.headers[name] for name in expected})
