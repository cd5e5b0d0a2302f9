"""The ways of counting a hot coupon that the benchmark compares: one module each, all behind `bench.front`.

Every way writes the same durable row into Usher's own table `redemption` and pays for the same keys. It counts in a table or
in keys of its own, which `bench.strategies.preparation` makes. What each promises is said here.
"""

from typing import NamedTuple

PARTS = 16
"""Rows into which a coupon's counter is split: as many as a middling pool has connections, so that they seldom meet."""


class Kind(NamedTuple):
    """What a way of counting promises, and with how many connections it is worth measuring.

    `exact`: never more live redemptions than the limit, whatever comes together. `durable`: what was answered 201 is in the
    ledger. `pools`: connections of a worker's pool. `parts`: rows of a coupon's counter. `served_by_front`: by `bench.front`,
    else by `usher serve`.
    """

    about: str
    exact: bool = True
    durable: bool = True
    pools: tuple[int, ...] = (4, 16, 64)
    parts: int = 1
    served_by_front: bool = True


KINDS = {
    "empty": Kind("the empty handler: parse, answer", exact=False, durable=False, pools=(1,)),
    "floor": Kind("the row and no check of the coupon", exact=False),
    "naive": Kind("read, compare, write", exact=False),
    "row-lock": Kind("SELECT … FOR UPDATE"),
    "row-lock-by-statement": Kind("SELECT … FOR UPDATE, each statement a round trip"),
    "conditional-update": Kind("UPDATE … WHERE used < max"),
    "conditional-update-by-statement": Kind("UPDATE … WHERE used < max, each statement a round trip"),
    "read-committed": Kind("UPDATE … WHERE used < max, a commit of its own"),
    "split-rows": Kind(f"the counter split into {PARTS} rows", parts=PARTS),
    "queue-single": Kind("a queue with one worker, one by one", pools=(1,)),
    "queue-batch": Kind("a queue with one worker, in batches", pools=(1,)),
    "redis-only": Kind("a counter in Redis and nothing else", durable=False),
    "redis-insert": Kind("the usual design: a counter in Redis, then one INSERT per request"),
    "usher": Kind("Usher", pools=(1,), served_by_front=False),
    "usher-without-redis": Kind("Usher with Redis stopped", pools=(1,), served_by_front=False),
}
NAMES = tuple(KINDS)
"""As on the command line, in results and in tables, in this order."""
