"""Frozen settings from the environment: every limit with its unit in its name, its range, and when to change it."""

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.addresses import MYSQL_FORM, REDIS_FORM, check_mysql_url, check_redis_url, needs_password
from service.errors import ConfigurationError
from service.reference import CONNECTIONS, DEADLINES, LIMITS, LISTENING, LOGS, RECONCILER, STORES, about, allowed, unit

PREFIX = "USHER_"
IGNORED_PREFIXES = ("USHER_SERVICE_", "USHER_PORT")
"""Kubernetes sets these beside a Service that is named usher."""
NOT_SET = SecretStr("")
LOG_HASH_KEY_MIN_CHARS = 16
"""In hexadecimal these are 64 bits; who has the log and a list of customers must not find the key by trying."""
SHOWN_MAX_CHARS: Final = 40
"""Of a value that is not allowed; what is longer is no slip of the finger."""


class Settings(BaseSettings):
    """Usher's settings, read from `USHER_<FIELD>`; see `load`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: SecretStr = Field(
        default=SecretStr("mysql://usher@127.0.0.1:3306/usher"),
        description="The ledger: mysql://user:password@host:port/name. Needs a user without the right to change read_only.",
        json_schema_extra=about(
            STORES,
            "Always: host, name and password are yours. Percent-encode what is special in the password, such as `%40` for @.",
            form=MYSQL_FORM,
        ),
    )
    migration_database_url: SecretStr = Field(
        default=NOT_SET,
        description="The ledger for `usher migrate` and `usher key`, with a user who may change the schema; "
        "USHER_DATABASE_URL unless given.",
        json_schema_extra=about(
            STORES,
            "When these commands say that the account lacks a right, because the service's account has only its own. Set it "
            "where the commands run, not where the service runs.",
            form=MYSQL_FORM,
        ),
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="The counters: redis://user:password@host:port/number or rediss://…",
        json_schema_extra=about(
            STORES,
            "When Redis is on another host, wants a password, or speaks TLS (`rediss://`). Two installations of Usher must "
            "not share one database number: their coupons' counters would have the same names.",
            form=REDIS_FORM,
        ),
    )
    listen_host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; 0.0.0.0 for all.",
        json_schema_extra=about(
            LISTENING,
            "When others than this machine are to reach it: `0.0.0.0` in a container or behind a load balancer.",
            form="a name or an address of this machine",
        ),
    )
    listen_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=8080,
        description="Port to listen on; 0 lets the system choose one.",
        json_schema_extra=about(LISTENING, "When the start says that the port is in use."),
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="Processes that serve; one for each core that the stores leave.",
        json_schema_extra=about(
            LISTENING,
            "Raise it when one process is at 100 % of a core and other cores are idle. Each worker has connections of its "
            "own, so look at the stores' limits as well.",
        ),
    )
    keep_alive_s: Annotated[int, Field(ge=1, le=3_600)] = Field(
        default=75,
        description="How long a connection may be idle after an answer before it is closed, up to half a second later.",
        json_schema_extra=about(
            LISTENING,
            "Raise it above your load balancer's own idle time when that one reports resets or 502 on connections that were "
            "idle: the balancer should be the one to close. Lower it when idle clients use up the connections, but not to "
            "the idle time of the balancer or of clients, or below: lower theirs first.",
        ),
    )
    queue_max_requests: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000,
        description="Redemptions under way in one worker; one more is answered 503 `overloaded` at once.",
        json_schema_extra=about(
            LIMITS,
            "Lower it when answers under overload come late: a queue that cannot be worked off within the request deadline "
            "only makes everybody wait. Raise it when short peaks are answered `overloaded` while the processors have time "
            "left.",
        ),
    )
    clients_max_connections: Annotated[int, Field(ge=16, le=100_000)] = Field(
        default=4_000,
        description="Connections of clients that one worker keeps open.",
        json_schema_extra=about(
            LIMITS,
            "Raise it when healthy clients cannot connect, and the limit of open files (`ulimit -n`) with it. Lower it to "
            "bound the memory of a worker.",
        ),
    )
    counter_idle_s: Annotated[int, Field(ge=60, le=31_536_000)] = Field(
        default=86_400,
        description="A counter that nobody asked for so long leaves Redis; it is loaded again on demand.",
        json_schema_extra=about(
            LIMITS,
            "Lower it when Redis runs full with counters of coupons that are over. There is little reason to raise it: "
            "loading a counter is one index look-up.",
        ),
    )
    request_deadline_ms: Annotated[int, Field(ge=500, le=60_000)] = Field(
        default=5_000,
        description="Every POST is answered within this time.",
        json_schema_extra=about(
            DEADLINES,
            "Set it below the time-out of those who call: when they give up first, they retry without knowing what "
            "happened. Raise it when MariaDB is far away or slow, and answers are 503 `outcome_unknown` although nothing "
            "failed.",
        ),
    )
    redis_timeout_ms: Annotated[int, Field(ge=50, le=30_000)] = Field(
        default=1_000,
        description="A reply of Redis that takes longer counts as lost, and Redis as away; never more than a fifth of the "
        "request deadline.",
        json_schema_extra=about(
            DEADLINES,
            "Lower it when a Redis that hangs holds requests up for too long. Raise it, and the request deadline with it, "
            "when `breaker opened` appears in the log although Redis is well: it is far away, or pauses.",
        ),
    )
    head_deadline_ms: Annotated[int, Field(ge=500, le=8_000)] = Field(
        default=5_000,
        description="A request's head must have arrived so long after its first byte, the first one so long after the "
        "connection was made, or the connection is cut.",
        json_schema_extra=about(
            DEADLINES,
            "Lower it when connections that send nothing, or a byte now and then, use up the connections. Raise it when a "
            "load balancer opens connections ahead of need and finds them closed.",
        ),
    )
    stop_deadline_ms: Annotated[int, Field(ge=1_000, le=300_000)] = Field(
        default=15_000,
        description="After SIGTERM, a worker has this long to finish what it has claimed; keep it above the request deadline.",
        json_schema_extra=about(
            DEADLINES,
            "Raise it when the log says `stopped with requests under way` or `stopped with work undone`. Keep it some "
            "seconds below the time after which your supervisor kills (Kubernetes: 30 s, systemd: 90 s, `docker stop`: 10 s "
            "unless set).",
        ),
    )
    record_connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2,
        description="Connections per worker that record, and as many again that confirm, extend, cancel and expire. A second "
        "one records only beside a statement that takes longer than 20 ms, or when a whole batch waits.",
        json_schema_extra=about(
            CONNECTIONS,
            "Seldom: more make smaller batches. Raise it when `usher_record_batch_seconds` is mostly above 0.02 and "
            "`usher_record_queue_rows` grows while processors are idle on both sides. Each further one begins alike.",
        ),
    )
    read_connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4,
        description="Connections per worker that read.",
        json_schema_extra=about(
            CONNECTIONS,
            "Raise it when GETs and refusals are slow while redemptions are quick. Lower it when MariaDB says that it has "
            "too many connections.",
        ),
    )
    redis_connections: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4,
        description="Connections per worker to Redis; batches need few.",
        json_schema_extra=about(
            CONNECTIONS,
            "Seldom. Raise it when Redis is far away and `claims failed` in the log names a lack of connections; lower it "
            "when Redis refuses connections (`maxclients`).",
        ),
    )
    claim_batch_max_requests: Annotated[int, Field(ge=1, le=5_000)] = Field(
        default=512,
        description="Requests in one round trip to Redis; bounds how long one script keeps Redis busy.",
        json_schema_extra=about(
            CONNECTIONS, "Lower it when others who share this Redis wait for Usher's scripts (`SLOWLOG GET` shows EVALSHA)."
        ),
    )
    record_batch_max_rows: Annotated[int, Field(ge=1, le=5_000)] = Field(
        default=256,
        description="Rows in one INSERT; beyond some hundred a longer one gains little.",
        json_schema_extra=about(
            CONNECTIONS,
            "Lower it when replicas lag behind long statements, or when `max_allowed_packet` of MariaDB is small. Raise it "
            "only with a measurement at hand.",
        ),
    )
    expire_interval_ms: Annotated[int, Field(ge=100, le=60_000)] = Field(
        default=1_000,
        description="The reconciler looks so often for holds whose time is over, ends them, and gives their uses back.",
        json_schema_extra=about(
            RECONCILER,
            "Lower it when the use of an abandoned order is to be had sooner. Raise it where holds are few and a MariaDB that "
            "is paid for by the statement is idle otherwise: until an expired hold is ended, its use is had only by a search "
            "for free seats, which an order makes that would be refused as exhausted.",
        ),
    )
    repair_interval_s: Annotated[int, Field(ge=0, le=604_800)] = Field(
        default=300,
        description="The leading reconciler compares all counters with the ledger so often, and mends what differs; 0: never.",
        json_schema_extra=about(
            RECONCILER,
            "Raise it when a repair takes long, since there are millions of coupons or redemptions. Nothing is refused wrongly "
            "meanwhile: what a repair mends, the service finds out by itself when it matters. 0 when you run "
            "`usher-reconciler repair` by a schedule of your own.",
        ),
    )
    run_keep_days: Annotated[int, Field(ge=1, le=3_650)] = Field(
        default=30,
        description="Checks, repairs and reseeds that have ended are kept for so long, with what they have found.",
        json_schema_extra=about(
            RECONCILER,
            "Raise it when you must be able to tell for longer what was mended; lower it when they take too much room.",
        ),
    )
    reconciler_listen_host: str = Field(
        default="127.0.0.1",
        description="Address on which the reconciler answers /livez, /readyz and /metrics; 0.0.0.0 for all.",
        json_schema_extra=about(
            RECONCILER,
            "When others than this machine watch over it, as in a container.",
            form="a name or an address of this machine",
        ),
    )
    reconciler_listen_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=8081,
        description="Port on which the reconciler answers; 0 lets the system choose one.",
        json_schema_extra=about(RECONCILER, "When its log says that the port is in use, such as by another reconciler."),
    )
    log_format: Literal["auto", "json", "pretty"] = Field(
        default="auto",
        description="Form of the log on standard error; auto is pretty on a terminal, else JSON.",
        json_schema_extra=about(
            LOGS,
            "`pretty` to read a log without a terminal, such as that of a container; `json` to see on a terminal what is "
            "collected.",
        ),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severe event that is logged.",
        json_schema_extra=about(LOGS, "`warning` when the log is paid for by the line; `debug` while looking for a defect."),
    )
    log_hash_key: SecretStr = Field(
        default=NOT_SET,
        description="Keys the short hashes that stand for codes, customers and orders in the log; random at each start unless "
        "given, so give all processes the same to follow a customer through all their logs.",
        json_schema_extra=about(
            LOGS,
            "When one customer, order or coupon is to be followed through the logs of several hosts, or across a restart. "
            "It is a secret: who has it can try which customer a hash stands for.",
            form=f"{LOG_HASH_KEY_MIN_CHARS} characters or more, chosen at random",
        ),
    )
    problem_base_uri: Annotated[str, Field(pattern=r"^https?://\S+/$")] = Field(
        default="https://usher.invalid/problems/",
        description="What a problem's `type` begins with; ends in a slash.",
        json_schema_extra=about(
            LOGS,
            "When you publish pages that explain the problems, or before your clients begin to compare `type`.",
            form="an http:// or https:// URL that ends in a slash",
        ),
    )

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _is_mysql_url(cls, value: SecretStr) -> SecretStr:
        """Of the right shape; or empty."""
        if value.get_secret_value():
            check_mysql_url(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: SecretStr) -> SecretStr:
        """Of the right shape."""
        check_redis_url(value)
        return value

    @field_validator("log_hash_key")
    @classmethod
    def _cannot_be_guessed(cls, value: SecretStr) -> SecretStr:
        """Long enough that nobody finds it by trying; or empty."""
        if 0 < len(value.get_secret_value()) < LOG_HASH_KEY_MIN_CHARS:
            raise ValueError("is too short")
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

    def doubts(self) -> Iterator[str]:
        """What is allowed, and yet hardly meant: a sentence each, for the start of the service."""
        if self.stop_deadline_ms <= self.request_deadline_ms:
            yield (
                f"USHER_STOP_DEADLINE_MS ({self.stop_deadline_ms}) is not above USHER_REQUEST_DEADLINE_MS "
                f"({self.request_deadline_ms}): a stop cuts off requests that have time left"
            )
        if "redis_timeout_ms" in self.model_fields_set and self.redis_reply_max_ms < self.redis_timeout_ms:
            yield (
                f"USHER_REDIS_TIMEOUT_MS ({self.redis_timeout_ms}) counts as {self.redis_reply_max_ms}, "
                f"a fifth of USHER_REQUEST_DEADLINE_MS ({self.request_deadline_ms})"
            )
        if needs_password(self.database_url):
            yield "USHER_DATABASE_URL has no password, and the ledger is on another machine"


def load(**given: tuple[str, object]) -> Settings:
    """The settings from the environment. `given`: field = (option's name, value); it wins where the value is not None.

    Raises ConfigurationError with a line for each bad variable or option: what it is and what is allowed.
    """
    options = {name: option for name, (option, value) in given.items() if value is not None}
    values: dict[str, Any] = {name: value for name, (_, value) in given.items() if value is not None}
    lines = list(_faults({}, {}))
    lines += [line for line in _faults(values, options) if line not in lines]
    if lines:
        raise ConfigurationError("\n".join(lines))
    return Settings(**values)


def _faults(values: dict[str, Any], options: Mapping[str, str]) -> Iterator[str]:
    """What is wrong, a line each. What an option overrides is looked at by itself, for it must not hide a bad variable."""
    try:
        Settings(**values)
    except ValidationError as error:
        yield from (_explain(fault, options) for fault in error.errors(include_url=False))


def _explain(fault: ErrorDetails, options: Mapping[str, str]) -> str:
    """One line: name, value unless it is a secret, what is allowed."""
    name = str(fault["loc"][0])
    shown_name = options.get(name, PREFIX + name.upper())
    field = Settings.model_fields[name]
    if field.annotation is SecretStr:
        wrong = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else "is not of the right form"
    else:
        text = str(fault["input"])
        wrong = f"is {text if len(text) <= SHOWN_MAX_CHARS else text[:SHOWN_MAX_CHARS] + '…'!r}"
    counted = f" ({unit(name, field)})" if unit(name, field) else ""
    return f"{shown_name} {wrong}; allowed: {allowed(field)}{counted}"


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[tuple[str, str | None]]:
    """Names that begin with USHER_ and mean nothing, each with the nearest known name or None."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    found = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not name.startswith(IGNORED_PREFIXES):
            nearest = difflib.get_close_matches(name, known, n=1)
            found.append((name, nearest[0] if nearest else None))
    return found
