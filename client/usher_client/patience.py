"""How long a call may take, and how it tries again. No I/O."""

import random
from dataclasses import dataclass

JITTER = 0.5
"""Each pause is lengthened by a random part of up to a half, so that not all callers come back at once."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call may take in all, and what it does until then. The caller has an answer or an exception by the deadline.

    Attributes:
        deadline_s: for all tries and the pauses between them.
        try_timeout_s: for one try, from connecting to the last byte. A second more than the service's own deadline for a
            POST: who hangs up earlier learns nothing from an answer that is about to come.
        connect_timeout_s: for connecting; Usher accepts at once or is not there.
        tries_max: the first one included.
        pause_s: before the second try; it doubles from try to try, and is never less than the answer's `Retry-After`.
        pause_max_s: it doubles up to here.
        shortest_try_s: with less time left than this, a try would only burden the service.
    """

    deadline_s: float = 15.0
    try_timeout_s: float = 6.0
    connect_timeout_s: float = 1.0
    tries_max: int = 6
    pause_s: float = 0.2
    pause_max_s: float = 4.0
    shortest_try_s: float = 0.1

    def pause_after(self, tries: int, retry_after_s: float | None) -> float:
        """Seconds to wait after so many tries, from 1 on."""
        doubled = min(self.pause_max_s, self.pause_s * 2.0 ** (tries - 1))
        return max(doubled, retry_after_s or 0.0) * random.uniform(1, 1 + JITTER)
