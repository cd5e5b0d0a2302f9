"""Private stores for a benchmark, migrated, and the ledger's administrator."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from pydantic import SecretStr

from bench.servers import usher
from deploy.local import MariaDB, Redis
from service.ledger import migrations

BYTES_PER_ROW = 900
"""Of the buffer pool. A redemption with its keys, names in no order, is 730 bytes; the rest is room for more."""
SMALLEST_POOL = 512 * 1024**2
"""As in deploy/stores/."""
SHARE_OF_MEMORY = 0.5
"""At most: there are others on the machine."""


@dataclass(frozen=True)
class Stores:
    """Both stores; the environment in which programs reach them; an API key for the load."""

    mariadb: MariaDB
    redis: Redis
    environment: Mapping[str, str]
    key: str

    def rows(self, statement: str, *values: object) -> tuple[tuple[Any, ...], ...]:
        """What a statement of the ledger's administrator returns."""
        with administrator(self.mariadb) as session, session.cursor() as cursor:
            cursor.execute(statement, values or None)
            return tuple(cursor.fetchall())


@contextmanager
def private_stores(folder: Path, rows: int) -> Iterator[Stores]:
    """Both stores with the schema and nothing else, and with memory for so many redemptions."""
    most = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * SHARE_OF_MEMORY)
    memory = {"innodb_buffer_pool_size": str(max(SMALLEST_POOL, min(rows * BYTES_PER_ROW, most)))}
    with MariaDB(folder / "mariadb", settings=memory) as mariadb, Redis(folder / "redis") as store:
        asyncio.run(migrations.run(SecretStr(mariadb.migration_url)))
        urls = {"USHER_DATABASE_URL": mariadb.url, "USHER_MIGRATION_DATABASE_URL": mariadb.migration_url}
        environment = {**os.environ, **urls, "USHER_REDIS_URL": store.url}
        key = usher(environment, "key", "create", "--name", "bench", "--scope", "redeem").strip()
        yield Stores(mariadb, store, environment, key)


def administrator(mariadb: MariaDB) -> "pymysql.Connection[Any]":
    """A session that may do everything."""
    return pymysql.connect(unix_socket=str(mariadb.socket), user="root", database=mariadb.database, autocommit=True)
