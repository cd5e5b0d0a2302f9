"""Canaries: values that are sent through Usher and must come out of it nowhere but in the answers to who sent them."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

from yarl import URL

from tests.driver import Answer, Client, Data, Json
from tests.usher_process import Finished

CODE, UNKNOWN_CODE = "CANARYCODE7Q", "CANARYGUESS4X"
INNER = "zuse8f31qx"
CUSTOMER, ORDER = f'canary\'customer "{INNER}" ü', "canary-order-52bd"
IDEMPOTENCY_KEY = 'canary-attempt-"k41pwq'
REASON = "canary_reason_9d3v"
WRONG_KEY = "usher_CanaryKeyThatIsNoKey9d"
HASH_KEY = "canary-hash-key-0a1b2c3d"
SENT = (CODE, UNKNOWN_CODE, CUSTOMER, INNER, ORDER, IDEMPOTENCY_KEY, "k41pwq", REASON, WRONG_KEY, HASH_KEY, "canary")
"""Whole, and the parts that are left when somebody cuts or masks at a quotation mark."""
LIFE = f"{CODE}-LIFE"
"""A coupon whose redemptions live their whole lives."""


def forms(value: str) -> Iterator[str]:
    """What a value can look like in a text: as it is, escaped, percent-encoded, hexadecimal, base64, all in lower case."""
    data = value.encode()
    yield from (value, json.dumps(value)[1:-1], repr(value)[1:-1], repr(data)[2:-1], quote(value, safe=""), quote_plus(value))
    yield data.hex()
    for before in range(3):  # Where base64 begins depends on what stands before; its ends are others' bits as well.
        whole = base64.b64encode(b"\0" * before + data + b"\0" * (-(before + len(data)) % 3)).decode()
        inner = whole[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        yield from (inner, inner.replace("+", "-").replace("/", "_"))


def digests(key: str) -> Iterator[str]:
    """How an API key is stored, as a text."""
    digest = hashlib.sha256(key.encode()).digest()
    yield from (digest.hex(), base64.b64encode(digest).decode()[:40], base64.urlsafe_b64encode(digest).decode()[:40])


def found_in(text: str, values: list[str]) -> list[str]:
    """The values that are in the text, in whatever form."""
    lowered = text.lower()
    return [value for value in values if any(form.lower() in lowered for form in forms(value))]


@dataclass
class Outputs:
    """All that was written while the canaries flew.

    `texts`: by its name, what no canary and no secret may be in. `replies`: what a command replied to who typed a canary, or
    asked for it: no secret may be in it. `secrets`: keys, their digests and passwords.
    """

    texts: dict[str, str] = field(default_factory=dict)
    replies: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def add_key(self, key: str) -> str:
        """A key that was made: it and its digest are secrets, and so is a good part of it."""
        self.secrets += [key, key.removeprefix("usher_")[:12], *digests(key)]
        return key

    def add_command(self, name: str, finished: Finished, *, typed: bool = False) -> Finished:
        """What a command wrote. `typed`: a canary was an argument, and standard error may repeat it."""
        self.replies[f"{name}: output"] = finished.output
        (self.replies if typed else self.texts)[f"{name}: errors"] = finished.errors
        return finished

    def add_answers(self, client: "Recorder") -> None:
        """Problems, without the pointers to what the client itself had named so; and what anybody may read."""
        for number, answer in enumerate(client.answers):
            name = f"answer {number} to {client.name}"
            if answer.status < 400:
                self.replies[name] = answer.text.decode(errors="replace")
                continue
            body = dict(answer.body or {})
            for fault in body.get("errors", []):
                fault["pointer"] = ""
            self.texts[name] = json.dumps(body, ensure_ascii=False)

    def leaks(self) -> dict[str, list[str]]:
        """What should not be where it is, by name."""
        places = [(name, text, [*SENT, *self.secrets]) for name, text in self.texts.items()]
        places += [(name, text, self.secrets) for name, text in self.replies.items()]
        return {name: found for name, text, values in places if (found := found_in(text, values))}


class Recorder(Client):
    """A client that keeps all its answers."""

    def __init__(self, name: str, *urls: str, key: str | None) -> None:
        super().__init__(*urls, key=key)
        self.name = name
        self.answers: list[Answer] = []

    async def _send(self, method: str, url: URL, *, data: Data, headers: Mapping[str, str]) -> Answer:
        answer = await super()._send(method, url, data=data, headers=headers)
        self.answers.append(answer)
        return answer

    @property
    def codes(self) -> set[str]:
        """The problems that were met."""
        return {answer.code for answer in self.answers if answer.code}


# --- What is sent ------------------------------------------------------------------------------------------------------


async def live(client: Recorder) -> None:
    """Redemptions through their lives, and what each call refuses."""
    await client.create_coupon(LIFE, max_per_customer=900)
    held, *others, over = [await reserve(client, f"life-{n}", hold_s) for n, hold_s in enumerate((600, 600, 600, 1))]
    confirmed, cancelled = others
    await reserve(client, "life-0")  # Again: the key has made it.
    await client.send(
        "POST", "/v1/redemptions", body=order_of("life-0"), headers={"Idempotency-Key": f"{IDEMPOTENCY_KEY}-found"}
    )
    await reserve(client, "life-0", key=f"{IDEMPOTENCY_KEY}-life-1")
    for one in (confirmed, cancelled):
        await act(client, one, "confirm")
    for verb, body in (("extend", {"hold_s": 60}), ("confirm", {"reason": REASON})):
        await act(client, confirmed, verb, body)
    for verb in ("cancel", "cancel", "confirm"):
        await act(client, cancelled, verb, {"reason": REASON} if verb == "cancel" else None)
    await act(client, held, "extend", {"hold_s": 600})
    await act(client, held, "cancel", {"reason": f"{REASON} ."})
    for name in ("life-1", "none"):
        await cancel_order(client, name)
    for body in ({"code": LIFE}, {"code": LIFE, "customer_id": CUSTOMER}, {"code": f"{CODE}-OVER", "customer_id": CUSTOMER}):
        await client.send("POST", "/v1/validations", body=body)
    await client.send("PATCH", f"/v1/coupons/{LIFE}", body={"max_per_customer": 1})
    await client.get(f"/v1/coupons/{LIFE}/history")
    await asyncio.sleep(1)  # Until the hold of one second is over.
    await act(client, over, "confirm")


def order_of(name: str, hold_s: int = 600) -> Json:
    """A body that asks for a hold."""
    return {"code": LIFE, "customer_id": CUSTOMER, "order_id": f"{ORDER}-{name}", "hold_s": hold_s}


async def reserve(client: Recorder, name: str, hold_s: int = 600, *, key: str | None = None) -> str:
    """A hold with an idempotency key, of its own unless given; its id, or what stands for one where there is none."""
    headers = {"Idempotency-Key": key or f"{IDEMPOTENCY_KEY}-{name}"}
    answer = await client.send("POST", "/v1/redemptions", body=order_of(name, hold_s), headers=headers)
    return answer.id if answer.status < 400 else ORDER


async def act(client: Recorder, redemption_id: str, verb: str, body: Json = None) -> None:
    """confirm, extend or cancel."""
    await client.send("POST", f"/v1/redemptions/{redemption_id}/{verb}", body=body)


async def cancel_order(client: Recorder, name: str) -> None:
    await client.send("POST", "/v1/redemptions/cancel", body={"code": LIFE, "order_id": f"{ORDER}-{name}", "reason": REASON})
