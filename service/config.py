"""Frozen settings from the environment: every limit with its unit in its name, its range and its reason."""

import difflib
import os
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import ConfigurationError

PREFIX = "USHER_"
IGNORED_PREFIXES = ("USHER_SERVICE_", "USHER_PORT")
"""Kubernetes sets these beside a Service that is named usher."""
NOT_SET = SecretStr("")


class Settings(BaseSettings):
    """Usher's settings, read from `USHER_<FIELD>`; see `load`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: SecretStr = Field(
        default=SecretStr("mysql://usher@127.0.0.1:3306/usher"),
        description="The ledger: mysql://user:password@host:port/name. Needs a user without the right to change read_only.",
    )
    migration_database_url: SecretStr = Field(
        default=NOT_SET,
        description="The ledger for `usher migrate` and `usher key`, with a user who may change the schema; "
        "USHER_DATABASE_URL unless given.",
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="The counters: redis://user:password@host:port/number or rediss://…",
    )
    listen_host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    listen_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=8080, description="Port to listen on; 0 lets the system choose one."
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="Processes that serve; one for each core that the stores leave."
    )
    request_deadline_ms: Annotated[int, Field(ge=500, le=60_000)] = Field(
        default=5_000, description="Every POST is answered within this time."
    )
    queue_max_requests: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000,
        description="Redemptions under way in one worker; one more is answered 503 `overloaded` at once.",
    )
    head_deadline_ms: Annotated[int, Field(ge=500, le=60_000)] = Field(
        default=5_000,
        description="A request's head must have arrived so long after its first byte, the first one so long after the "
        "connection was made, or the connection is cut.",
    )
    keep_alive_s: Annotated[int, Field(ge=1, le=3_600)] = Field(
        default=75, description="A connection that has been idle for so long after an answer is closed."
    )
    clients_max_connections: Annotated[int, Field(ge=16, le=100_000)] = Field(
        default=4_000, description="Connections of clients that one worker keeps open."
    )
    stop_deadline_ms: Annotated[int, Field(ge=1_000, le=300_000)] = Field(
        default=15_000,
        description="After SIGTERM, a worker has this long to finish what it has claimed; keep it above the request deadline.",
    )
    claim_batch_max_requests: Annotated[int, Field(ge=1, le=5_000)] = Field(
        default=512, description="Requests in one round trip to Redis; bounds how long one script keeps Redis busy."
    )
    record_batch_max_rows: Annotated[int, Field(ge=1, le=5_000)] = Field(
        default=256, description="Rows in one INSERT; beyond some hundred a longer one gains little."
    )
    record_connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="Connections per worker that write; few make large batches."
    )
    read_connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="Connections per worker that read and administer."
    )
    redis_connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="Connections per worker to Redis; batches need few."
    )
    redis_timeout_ms: Annotated[int, Field(ge=50, le=30_000)] = Field(
        default=1_000,
        description="A reply of Redis that takes longer counts as lost; never more than a fifth of the request deadline.",
    )
    counter_idle_s: Annotated[int, Field(ge=60, le=31_536_000)] = Field(
        default=86_400,
        description="A counter that nobody asked for so long leaves Redis; it is loaded again on demand.",
    )
    log_format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="Form of the log on standard error; auto is pretty on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe event that is logged."
    )
    log_hash_key: SecretStr = Field(
        default=NOT_SET,
        description="Keys the short hashes that stand for codes, customers and orders in the log; random at each start unless "
        "given, so give all processes the same to follow a customer through all their logs.",
    )
    problem_base_uri: Annotated[str, Field(pattern=r"^https?://\S+/$")] = Field(
        default="https://usher.invalid/problems/", description="What a problem's `type` begins with; ends in a slash."
    )

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _is_mysql_url(cls, value: SecretStr) -> SecretStr:
        """`mysql://user[:password]@host[:port]/name`; or empty."""
        if value.get_secret_value():
            parts = _split(value, ("mysql",))
            if not parts.username or not parts.path.removeprefix("/"):
                raise ValueError("must look like mysql://user:password@host:port/name")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: SecretStr) -> SecretStr:
        """`redis://…` or `rediss://…`."""
        _split(value, ("redis", "rediss"))
        return value

    @property
    def redis_reply_max_ms(self) -> int:
        """A reply that takes longer counts as lost: `redis_timeout_ms`, but a fifth of the request's deadline at most.

        A request waits for two batches at most, the one under way and its own, and the ledger needs the rest.
        """
        return min(self.redis_timeout_ms, self.request_deadline_ms // 5)

    @property
    def claim_age_max_ms(self) -> int:
        """A claim that is older and not settled counts as absent: its request was answered long ago."""
        return self.request_deadline_ms + 2_000

    @property
    def migration_url(self) -> SecretStr:
        """The ledger's address for those who may change the schema."""
        return self.migration_database_url if self.migration_database_url.get_secret_value() else self.database_url


def _split(value: SecretStr, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL of one of these schemes, with a host; ValueError says what is allowed, never the value."""
    parts = urlsplit(value.get_secret_value())
    wanted = " or ".join(f"{scheme}://host:port/…" for scheme in schemes)
    try:
        port_is_sane = parts.port is None or parts.port > 0
    except ValueError:
        port_is_sane = False
    if parts.scheme not in schemes or not parts.hostname or not port_is_sane:
        raise ValueError(f"must look like {wanted}")
    return parts


def address(url: SecretStr) -> str:
    """Where a store is, fit for messages: host, port and name without user and password."""
    parts = urlsplit(url.get_secret_value())
    default_port = 3306 if parts.scheme == "mysql" else 6379
    return f"{parts.hostname}:{parts.port or default_port}{unquote(parts.path)}"


def load(**given: object) -> Settings:
    """The settings from the environment; `given` (from a command line) wins where not None.

    Raises ConfigurationError with each bad variable's name and what is allowed.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"{PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigurationError("; ".join(lines)) from None


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[tuple[str, str | None]]:
    """Names that begin with USHER_ and mean nothing, each with the nearest known name or None."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    found = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not name.startswith(IGNORED_PREFIXES):
            nearest = difflib.get_close_matches(name, known, n=1)
            found.append((name, nearest[0] if nearest else None))
    return found
