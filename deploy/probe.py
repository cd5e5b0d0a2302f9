"""Asks what runs in the same container for `/livez` or `/readyz`; the exit status is 0 for the answer 200, else 1.

`python probe.py /readyz` asks the service, `python probe.py /readyz 8081` whoever listens there, such as the reconciler. It is
a program of its own because the image has neither curl nor wget.
"""

import contextlib
import http.client
import os
import sys
from collections.abc import Sequence

TIMEOUT_S = 2.0
"""The service answers both within a second; whoever runs this gives it 3 s."""


def main(arguments: Sequence[str]) -> int:
    """Prints what was answered and returns the exit status."""
    path, *given = arguments
    port = int(*given) if given else int(os.environ.get("USHER_LISTEN_PORT") or 8080)
    # Not urllib: it would take the way through a proxy that the engine's configuration names.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            print(answer.status, answer.read().decode("utf-8", errors="replace"))
        except (OSError, http.client.HTTPException) as error:
            print(f"no answer: {error}")
            return 1
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
