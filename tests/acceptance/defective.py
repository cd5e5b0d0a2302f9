"""Usher with defects that a coupon's code sets off: `GET /v1/coupons/X-RAISE` and so on. Run as a program, like `usher`.

Whatever fails here says what it was about, in its message, its variables and its arguments, as libraries do.
"""

import asyncio
import gc
import logging
import threading
import warnings
from typing import NoReturn

from service.cli import main
from service.ledger.coupons import Coupons
from service.model import Coupon


class Fragile:
    """Fails where nobody can be told."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __del__(self) -> None:
        fail(self.code)


def fail(code: str) -> NoReturn:
    """With the code in its message, between all kinds of marks."""
    message = f"no {code} of '{code}' and \"it's {code}\" in {{{code}}}"
    raise LookupError(message, code)


async def fail_later(code: str) -> None:
    """In a task that nobody waits for."""
    await asyncio.sleep(0)
    fail(code)


async def get(self: Coupons, code: str, deadline: float) -> Coupon | None:
    """In place of `Coupons.get`."""
    defect = code.rpartition("-")[2]
    if defect == "RAISE":
        fail(code)
    elif defect == "EXIT":
        raise SystemExit(f"{code} ends it")
    elif defect == "TASK":
        task = asyncio.create_task(fail_later(code), name=code)
        await asyncio.sleep(0.01)
        del task
        gc.collect()
    elif defect == "CALLBACK":
        asyncio.get_running_loop().call_soon(fail, code)
    elif defect == "THREAD":
        thread = threading.Thread(target=fail, args=(code,), name=code)
        thread.start()
        await asyncio.to_thread(thread.join)
    elif defect == "DESTRUCTOR":
        Fragile(code)
    elif defect == "WARNING":
        warnings.warn(f"{code} is deprecated", RuntimeWarning, stacklevel=1)
    elif defect == "LIBRARY":
        logging.getLogger("aiohttp.server").error("Error handling request for %s", code)
        logging.getLogger("redis").warning(f"no reply for {{{code}}}: {code!r}")  # noqa: G004
    return None


DEFECTS = ("RAISE", "TASK", "CALLBACK", "THREAD", "DESTRUCTOR", "WARNING", "LIBRARY", "EXIT")

if __name__ == "__main__":
    Coupons.get = get  # type: ignore[method-assign]
    main()
