"""The settings: every `TASKS_*` variable of the service, with its type, check and explanation.

They are read from the environment, or from a `.env` file in the working directory, and are frozen. A value
that cannot work is refused at start, with a message that says how to fix it.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .addresses.broker import check_broker
from .addresses.encryption import check_encryption
from .addresses.redis import CLUSTER_SHARDS, parse_address
from .addresses.web import (
    LOOPBACK_ORIGINS,
    UNIX_SOCKETS,
    is_loopback_host,
    parse_host,
    parse_origin,
    parse_proxy,
)
from .api_key_settings import KEY_CHARACTERS, ApiKeySettings
from .crypto.envelope import Envelope, Mode, load_envelope
from .crypto.strength import GENERATE, weakness
from .crypto.trusted_files import check_env_file
from .domain.errors import ConfigurationError
from .domain.limits import GIB, KIB, MIB, OTHER_QUEUES, Limits
from .domain.rates import NO_RATES, Counted, Rate, Rates
from .domain.task import HOUR, MINUTE, SECOND
from .oauth_settings import OAuthSettings

logger = logging.getLogger(__name__)

_PREFIX = "TASKS_"

_SIMILAR = 0.8
"""How alike two names are of which one must be a mistake, as difflib has it: letters swapped, left out, or
one too many. Less alike are the variables of others, who may begin theirs with the same word."""

KNOWN_CLIENTS = {"mcp": 3.5}
"""Seconds after which calls of clients that are known to give up early are answered, by their names.

`mcp` is the name under which the official Python SDK calls for whoever gives it none: among others for the
OpenAI agents SDK, which gives up after 5 seconds unless it is told otherwise.
"""

DRAIN_DELAY = 5.0
"""The drain delay where others than this machine send requests: two checks of a proxy, 2 seconds apart."""

MOST = 1_000_000
"""The largest count, and the largest number of seconds, that can be meant: more is no limit."""

MOST_BYTES = 64 * MIB
"""The largest arguments and results that can be meant: Redis answers nobody else while it copies one."""

MOST_STORED = 1024 * GIB
"""The largest number of bytes of one owner that can be meant."""

MOST_TASKS = 100_000_000
"""The largest number of tasks that can be meant: each takes 3 KiB of Redis's memory, at least."""

CALLS_PER_MINUTE = 3_000
"""How many tasks one owner may create in a minute, unless that is set."""

CALL_WINDOW_MS = 10 * SECOND
"""The window in which calls are counted: short, so that whoever was too quick need not wait for long."""

OTHER_RATES: Rates = {
    Counted.LOOKUPS: Rate(100, 10 * SECOND),
    Counted.SESSIONS: Rate(300, MINUTE),
    Counted.SUBSCRIPTIONS: Rate(2_000, HOUR),
}
"""The rates that need no setting: far above what clients do that work, and low enough that what is made
within the lifetime of a row is little."""

_SLOTS = re.compile(r"(?:(.+):)?([1-9][0-9]{0,8})")


class _AsWritten(EnvSettingsSource):
    """Variables whose values are handed to validators as they are written, and not read as JSON.

    pydantic-settings has `NoDecode` for it since 2.7, and shops pin older ones.
    """

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return value


class _FileAsWritten(_AsWritten, DotEnvSettingsSource):
    """The same, of a `.env` file."""


class Settings(ApiKeySettings, OAuthSettings, BaseSettings):
    """Configuration of every process; API keys are in `ApiKeySettings`, sign-in is in `OAuthSettings`.

    Attributes:
        redis_url: The Redis that holds the tasks: `redis://`, `rediss://` or `unix://`;
            `redis+sentinel://host:port,.../0?service=name` or `redis+cluster://host:port,...` (`rediss+...`
            with TLS). Unset: a private redis-server is started in `data_dir`.
        broker_url: Celery's broker. Unset: the same Redis, and then record and message are one write. A
            cluster cannot be the broker, so there it must be set.
        private_network: Whether nobody else can listen between the processes, Redis and the broker;
            otherwise front ends and workers refuse connections to other machines that are not encrypted.
        key_prefix: The prefix of every key, so that several services can share a Redis.
        shards: The number of shards that tasks are spread over; on a cluster 16 by default. It may never
            change on a used store, which stores the number and refuses another.
        data_dir: The directory of the private redis-server and of the secret.
        secret: The secret under which what travels with clients is sealed. Unset: one is created in
            `data_dir`, mode 0600.
        accepted_secrets: More secrets whose seals are accepted, comma-separated: while `secret` is changed,
            the previous one and the next.
        owner_secret: The key of the hashes under which owners are stored; may never change while tasks
            matter. Unset: `secret`, which then may not change either.
        message_secret: The secret under which messages to workers are signed, the same for all front ends,
            workers, beats and programs that submit. Unset: with the private redis-server one is created
            beside its socket; with any other, messages are not signed.
        accepted_message_secrets: More secrets whose signatures are accepted, comma-separated: while
            `message_secret` is changed, the previous one and the next.
        message_signing: What workers do with a message of a tool that is not signed: `required` drops it,
            `accept` runs it, for the time in which not all processes sign yet. A wrong signature is always
            refused.
        encryption_keys: The keys under which arguments, results and everything else that callers and tools
            write is encrypted in Redis: `id:key` pairs, comma-separated, each key 32 random bytes in base64.
            The first encrypts, all decrypt. The same for all front ends, workers, programs that submit and
            operators; beat and Flower need none. Unset, and no file: nothing is encrypted.
        encryption_keys_file: A file of such pairs, one a line, that only its owner can read (mode 0600).
        encryption: What is done with what is not encrypted: `required` refuses to read it, `accept` reads it,
            and `prepare` writes it as well, so that keys can be given to one process after the other.
        host: The address that HTTP is served on.
        port: The port that HTTP is served on.
        together: Whether a front end without an app serves the tools of all services at `/mcp`, each with its
            service's name in front.
        allowed_hosts: Host headers to accept besides the bound address, as `host` (on any port) or
            `host:port`; needed behind a proxy.
        allowed_origins: The origins of web pages that may call besides the service's own, as `scheme://host`,
            `scheme://host:port` or `scheme://host:*`; by default the pages of this machine.
        trusted_proxies: The proxies that are believed when they name the address that called them, in
            `X-Forwarded-For` or `Forwarded`: addresses and networks, and `unix` for Unix sockets.
        max_connections: How many connections of clients a front end serves at a time, if it may open as many
            files.
        max_connections_per_address: How many of these one address may have, or one network of IPv6; behind a
            trusted proxy, how many open requests.
        log_format: How the log is written, to stderr: `text`, or `json`, an object a line.
        log_level: The lowest level that is logged: `debug`, `info`, `warning`, `error` or `critical`.
        audit_log: Where the audit log is written: `stderr`, `stdout`, or a file. Unset: nowhere.
        metrics_port: The port at which front ends serve their metrics; workers serve theirs at the next one,
            and beat at the one after. Unset: nothing is counted or served.
        metrics_host: The address for that.
        metrics_key: What whoever reads them must send as a bearer token; required unless `metrics_host` is a
            loopback address.
        pool: Redis connections per process and server, at most; operations wait for a free one.
        sweep_interval: Seconds between two sweeps.
        store_deadline: Seconds that a front end waits for the store before it answers with an error.
        drain_delay: Seconds that a front end serves on, not ready, after it was told to stop, until its
            proxies have noticed. Unset: 5, or 0 where only this machine can reach it.
        wait_limit: Seconds that a call without a task handle may wait for its result.
        handle_after: Seconds after which such a call of an `optional` tool is answered with a text that names
            the task, if `companion_tools` are listed.
        handle_after_by_client: The same for clients that give up earlier or later, as `name:seconds` pairs,
            comma-separated, by the names that they give themselves; beside those that are known.
        companion_tools: Whether to list tools with which a model follows tasks that its client does not know:
            `task_status`, `task_result`, `task_answer`, `task_cancel`.
        reconnect_window: Seconds in which a caller that lost its connection may come back with its
            idempotency key; then its call is cancelled.
        max_stored_per_owner: Bytes stored of one owner's tasks, ended ones included until they are removed;
            see `Limits.stored_per_owner`.
        calls_per_minute: How many tasks one owner may create in a minute, by calls of tools; counted in
            windows of ten seconds. Unset: 3000 where callers have keys or tokens, and no limit where only the
            local user calls. Where there is a limit, other rates hold too: see `rates`. 0: no limits.
        max_running_per_owner: How many tasks of one owner may run from a queue at a time; the owner's other
            tasks wait for a slot. A number for every queue, `queue:number` for one, comma-separated. Unset:
            no limit.
        take_turns: Whether owners take turns in queues that have no such limit: while tasks wait there, the
            next one is of the owner who has the fewest running. Unset: where there may be several owners.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may hold secrets
    )

    redis_url: str | None = None
    broker_url: str | None = None
    private_network: bool = False
    key_prefix: str = Field(default="ts", pattern=r"^[A-Za-z0-9_.-]{1,32}$")
    shards: int = Field(default=1, ge=1, le=256)
    data_dir: Path = Path(".tasks-service")
    secret: SecretStr | None = None
    accepted_secrets: tuple[SecretStr, ...] = ()
    owner_secret: SecretStr | None = None
    message_secret: SecretStr | None = None
    accepted_message_secrets: tuple[SecretStr, ...] = ()
    message_signing: Literal["required", "accept"] = "required"
    encryption_keys: tuple[SecretStr, ...] = ()
    encryption_keys_file: Path | None = None
    encryption: Literal["prepare", "accept", "required"] = "required"
    host: str = "127.0.0.1"
    port: int = Field(default=8787, ge=0, le=65535)
    together: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = LOOPBACK_ORIGINS
    trusted_proxies: tuple[str, ...] = ()
    max_connections: int = Field(default=4096, ge=16, le=MOST)
    max_connections_per_address: int = Field(default=1024, ge=1, le=MOST)
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    audit_log: str | None = None
    metrics_port: int | None = Field(default=None, ge=1, le=65533)
    metrics_host: str = "127.0.0.1"
    metrics_key: SecretStr | None = None
    pool: int = Field(default=16, ge=2, le=1000)
    sweep_interval: float = Field(default=2.0, gt=0, le=60)
    store_deadline: float = Field(default=1.8, gt=0, le=30)
    drain_delay: float | None = Field(default=None, ge=0, le=300)
    wait_limit: float = Field(default=3600.0, gt=0, le=MOST)
    handle_after: float = Field(default=20.0, gt=0, le=MOST)
    handle_after_by_client: dict[str, PositiveFloat] = Field(default_factory=lambda: dict(KNOWN_CLIENTS))
    companion_tools: bool = True
    reconnect_window: float = Field(default=600.0, gt=0, le=86_400)
    max_arguments: int = Field(default=MIB, ge=KIB, le=MOST_BYTES)
    max_argument_values: int = Field(default=10_000, ge=100, le=MOST)
    max_result: int = Field(default=MIB, ge=KIB, le=MOST_BYTES)
    max_live_per_owner: int = Field(default=10_000, ge=1, le=MOST_TASKS)
    max_stored_per_owner: int = Field(default=GIB, ge=MIB, le=MOST_STORED)
    max_tasks_per_shard: int = Field(default=2_000_000, ge=1, le=MOST_TASKS)
    calls_per_minute: int | None = Field(default=None, ge=0, le=MOST)
    max_running_per_owner: dict[str, PositiveInt] = Field(default_factory=dict)
    take_turns: bool | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read variables as they are written, and a `.env` file only if nobody else could have written it.

        Raises:
            ConfigurationError: Somebody else could.
        """
        path = dotenv_settings.env_file if isinstance(dotenv_settings, DotEnvSettingsSource) else None
        for named in [path] if isinstance(path, str | Path) else path or ():
            check_env_file(Path(named))
        variables, file = _AsWritten(settings_cls), _FileAsWritten(settings_cls, env_file=path)
        for name in (*variables.env_vars, *file.env_vars):
            tell_if_misspelled(name.upper())
        return init_settings, variables, file, file_secret_settings

    @model_validator(mode="before")
    @classmethod
    def _spread_over_a_cluster(cls, values: object) -> object:
        if isinstance(values, dict) and _is_cluster(values.get("redis_url")):
            values.setdefault("shards", CLUSTER_SHARDS)
        return values

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _check_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value:
            try:
                for one in value.split(";"):
                    check_encryption(one)
                _URL_CHECKS[str(info.field_name)](value)
            except ValueError as error:
                raise ValueError(f"TASKS_{str(info.field_name).upper()}: {error}") from None
        return value or None

    @field_validator("handle_after_by_client", mode="before")
    @classmethod
    def _parse_clients(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        seconds: dict[str, float] = dict(KNOWN_CLIENTS)
        for part in (part.strip() for part in value.split(",") if part.strip()):
            name, _, number = part.rpartition(":")
            try:
                seconds[name.strip().lower()] = float(number)
            except ValueError:
                name = ""
            if not name:
                raise ValueError(
                    f"TASKS_HANDLE_AFTER_BY_CLIENT: {part!r} is not of the form name:seconds, as in mcp:3.5"
                )
        return seconds

    @field_validator("max_running_per_owner", mode="before")
    @classmethod
    def _parse_slots(cls, value: object) -> object:
        if not isinstance(value, str | int):
            return value
        slots = {}
        for part in (part.strip() for part in str(value).split(",") if part.strip()):
            if (found := _SLOTS.fullmatch(part)) is None:
                raise ValueError(
                    f"TASKS_MAX_RUNNING_PER_OWNER: {part!r} is neither a number of tasks, from 1 on, nor a "
                    "queue with such a number, as in 8,gpu:1"
                )
            slots[found[1] or OTHER_QUEUES] = int(found[2])
        return slots

    @field_validator(
        "allowed_hosts",
        "allowed_origins",
        "accepted_secrets",
        "accepted_message_secrets",
        "encryption_keys",
        "trusted_proxies",
        mode="before",
    )
    @classmethod
    def _parse_list(cls, value: object) -> object:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @cached_property
    def envelope(self) -> Envelope:
        """What encrypts what this process stores.

        Raises:
            ConfigurationError: A key is none, or the file of keys cannot be used.
        """
        return load_envelope(self.encryption_keys, self.encryption_keys_file, Mode(self.encryption))

    @model_validator(mode="after")
    def _check_encryption_keys(self) -> Self:
        try:
            _ = self.envelope
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return self

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _in_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("audit_log")
    @classmethod
    def _no_log(cls, value: str | None) -> str | None:
        return value or None

    @field_validator("host", "metrics_host")
    @classmethod
    def _check_host(cls, value: str, info: ValidationInfo) -> str:
        try:
            if ":" in value:
                ipaddress.ip_address(value)
            else:
                parse_host(value)
        except ValueError:
            variable = f"{_PREFIX}{str(info.field_name).upper()}"
            raise ValueError(
                f"{variable}: {value!r} is neither an address nor the name of one, as in 127.0.0.1; "
                f"a port goes into {variable.removesuffix('HOST')}PORT"
            ) from None
        return value

    @field_validator("metrics_key")
    @classmethod
    def _check_metrics_key(cls, value: SecretStr | None) -> SecretStr | None:
        key = "" if value is None else value.get_secret_value()
        if not key:
            return None
        if len(key) < KEY_CHARACTERS or not re.fullmatch(r"[!-~]+", key):
            raise ValueError(
                f"TASKS_METRICS_KEY: expected at least {KEY_CHARACTERS} characters of ASCII, without spaces. "
                f"{GENERATE!r} prints a strong one"
            )
        if (weak := weakness(key)) is not None:
            raise ValueError(
                f"TASKS_METRICS_KEY could be guessed: it {weak}. {GENERATE!r} prints a strong one"
            )
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _each("TASKS_ALLOWED_HOSTS", parse_host, value)

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _each("TASKS_ALLOWED_ORIGINS", parse_origin, value)

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _each("TASKS_TRUSTED_PROXIES", parse_proxy, tuple(part for part in value if part != UNIX_SOCKETS))
        return value

    @model_validator(mode="after")
    def _keep_owners(self) -> Self:
        if self.accepted_secrets and self.owner_secret is None:
            raise ValueError(
                "TASKS_ACCEPTED_SECRETS: TASKS_SECRET is being changed, but owners of tasks are stored under "
                "it, and nobody would find their tasks. Set TASKS_OWNER_SECRET to the secret that the "
                "deployment began with, and leave it so"
            )
        return self

    @cached_property
    def limits(self) -> Limits:
        """The limits, for stores and front ends."""
        return Limits(
            arguments_bytes=self.max_arguments,
            argument_values=self.max_argument_values,
            result_bytes=self.max_result,
            live_per_owner=self.max_live_per_owner,
            stored_per_owner=self.max_stored_per_owner,
            tasks_per_shard=self.max_tasks_per_shard,
            running_per_owner=self.max_running_per_owner,
        )

    @property
    def knows_callers(self) -> bool:
        """Whether callers prove who they are: by API keys, or by signing in."""
        return self.has_api_keys or bool(self.oauth_issuers)

    @property
    def owners_take_turns(self) -> bool:
        """Whether owners take turns in queues; where it is unset, whether there may be more than one."""
        several = len(self.api_keys) > 1 or self.api_keys_file is not None or bool(self.oauth_issuers)
        return several if self.take_turns is None else self.take_turns

    @cached_property
    def rates(self) -> Rates:
        """How often callers may do what; none where only the local user calls, who would take from nobody."""
        per_minute = self.calls_per_minute
        if per_minute is None:
            per_minute = CALLS_PER_MINUTE if self.knows_callers else 0
        if not per_minute:
            return NO_RATES
        number = -(-per_minute * CALL_WINDOW_MS // MINUTE)
        calls = Rate(number, CALL_WINDOW_MS, "TASKS_CALLS_PER_MINUTE")
        return {Counted.CALLS: calls, **OTHER_RATES}

    @property
    def seconds_to_drain(self) -> float:
        """The drain delay; where it is unset, its default."""
        if self.drain_delay is not None:
            return self.drain_delay
        return 0.0 if self.is_loopback else DRAIN_DELAY

    @property
    def is_loopback(self) -> bool:
        """Whether HTTP is served to this machine only."""
        return is_loopback_host(self.host)


@cache
def tell_if_misspelled(variable: str) -> None:
    """Warn, once, of a variable that is read by nobody and looks like one that is."""
    if (nearest := _nearest(variable)) is not None:
        logger.warning("%s is read by nobody; did you mean %s?", variable, nearest)


def _nearest(variable: str) -> str | None:
    """The variable that one of another name was meant to be; None if that is not likely."""
    name = variable.removeprefix(_PREFIX).lower()
    if not variable.startswith(_PREFIX) or name in Settings.model_fields:
        return None
    found = get_close_matches(name, Settings.model_fields, n=1, cutoff=_SIMILAR)
    return f"{_PREFIX}{found[0].upper()}" if found else None


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: Some cannot work; the message has a sentence for each, without secrets.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(refusal_of_settings(error)) from None


def refusal_of_settings(error: ValidationError) -> str:
    """What is wrong with variables, a sentence for each; nothing that may be a secret is quoted."""
    return "\n".join(_sentence(problem) for problem in error.errors())


_EXPECTED: Mapping[str, str] = {
    "bool_parsing": "true or false",
    "int_parsing": "a whole number, without a unit",
    "int_from_float": "a whole number, without a unit",
    "float_parsing": "a number of seconds, without a unit, as in 2.5",
    "finite_number": "a number of seconds that is not endless",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
}
"""What was expected, by pydantic's type of an error."""


def _sentence(problem: ErrorDetails) -> str:
    name = _PREFIX + "_".join(str(part).upper() for part in problem["loc"])
    if problem["type"] == "literal_error":
        return f"{name}: expected {problem['ctx']['expected'].replace(chr(39), '')}, not {problem['input']!r}"
    if (expected := _EXPECTED.get(problem["type"])) is not None:
        wanted = expected.format_map(problem.get("ctx", {}))
        return f"{name}: expected {wanted}, not {str(problem['input'])!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return message if message.startswith(_PREFIX) else f"{name}: {message}"


_URL_CHECKS: Mapping[str, Callable[[str], object]] = {"redis_url": parse_address, "broker_url": check_broker}


def _is_cluster(url: object) -> bool:
    return isinstance(url, str) and url.partition("://")[0].lower().endswith("+cluster")


def _each(name: str, parse: Callable[[str], object], value: tuple[str, ...]) -> tuple[str, ...]:
    for part in value:
        try:
            parse(part)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return value
