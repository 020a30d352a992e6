"""Settings that nobody can mean: each by itself is possible, and together they give something away.

They are refused when a process starts that would act on them. `doctor` reads the same settings and must be
able to say so, so they are no errors of `Settings` itself.
"""

from __future__ import annotations

from datetime import UTC, datetime

from .addresses.encryption import is_open, is_unverified
from .addresses.web import is_loopback_host, parse_host
from .crypto.key_file import HashedKey, read_key_file
from .crypto.strength import GENERATE
from .domain.errors import ConfigurationError
from .metrics.address import Address
from .settings import Settings


def refuse_strangers(settings: Settings) -> None:
    """Refuse to serve others than this machine where callers do not prove who they are.

    Raises:
        ConfigurationError: The address is not a loopback one, or a proxy is in front, and there are neither
            API keys nor sign-in.
    """
    if settings.knows_callers:
        return
    if not settings.is_loopback:
        reached = f"TASKS_HOST is {settings.host}, which other machines can reach"
        instead = "TASKS_HOST=127.0.0.1"
    elif public := [host for host in settings.allowed_hosts if not _is_local(host)]:
        reached = f"TASKS_ALLOWED_HOSTS has {public[0]}, so that others can reach it through a proxy"
        instead = "leave TASKS_ALLOWED_HOSTS out"
    elif settings.trusted_proxies:
        reached = "TASKS_TRUSTED_PROXIES is set, so that others can reach it through a proxy"
        instead = "leave TASKS_TRUSTED_PROXIES out"
    else:
        return
    raise ConfigurationError(
        f"{reached}, and TASKS_API_KEYS is empty: whoever calls would be its one user. Set "
        "TASKS_API_KEYS=name:key ('tasks-service key NAME' prints a key), TASKS_OAUTH_ISSUERS for callers "
        f"that sign in, or {instead}"
    )


def refuse_ended_keys(settings: Settings) -> None:
    """Refuse to serve nobody.

    Raises:
        ConfigurationError: Every API key has ended, and there is no sign-in; or the file of keys cannot be
            used.
    """
    hashed: tuple[HashedKey, ...] = ()
    if settings.api_keys_file is not None:
        hashed = read_key_file(settings.api_keys_file)
    if not settings.has_api_keys or settings.oauth_issuers:
        return
    ends = [key.until for keys in settings.api_keys.values() for key in keys]
    ends += [key.until for key in hashed]
    now = datetime.now(UTC)
    if all(end is not None and end <= now for end in ends):
        where = "TASKS_API_KEYS" if settings.api_keys else f"TASKS_API_KEYS_FILE ({settings.api_keys_file})"
        raise ConfigurationError(
            f"{where} has no key that has not ended, so that nobody could call. Add one with a later end, or "
            "without; 'tasks-service key NAME' prints one"
        )


def refuse_listeners(settings: Settings) -> None:
    """Refuse connections to Redis and the broker that others could read or change.

    Raises:
        ConfigurationError: One leads to another machine, and is not encrypted, or whoever answers is not
            verified; and the network is not said to be private.
    """
    if settings.private_network:
        return
    for variable, url in (("TASKS_REDIS_URL", settings.redis_url), ("TASKS_BROKER_URL", settings.broker_url)):
        if url and is_open(url):
            raise ConfigurationError(
                f"{variable} leads to another machine, and the connection is not encrypted: arguments, "
                "results and passwords could be read on the way. Use rediss:// or amqps://, or set "
                "TASKS_PRIVATE_NETWORK=true if nobody else can listen there"
            )
        if url and is_unverified(url):
            raise ConfigurationError(
                f"{variable} has ssl_cert_reqs other than required and leads to another machine: whoever "
                "answers there in its place is believed. Name the certificate of its CA by ssl_ca_certs, or "
                "set TASKS_PRIVATE_NETWORK=true if nobody else can answer there"
            )


def metrics_address(settings: Settings) -> Address | None:
    """Where metrics are served; None: nowhere.

    Raises:
        ConfigurationError: Other machines could read them, and there is no key.
    """
    if settings.metrics_port is None:
        return None
    key = None if settings.metrics_key is None else settings.metrics_key.get_secret_value()
    if key is None and not is_loopback_host(settings.metrics_host):
        raise ConfigurationError(
            f"TASKS_METRICS_HOST is {settings.metrics_host}, which other machines can reach, and "
            "TASKS_METRICS_KEY is empty: whoever calls could read which tools there are and how much they "
            f"are used. Set TASKS_METRICS_KEY ('{GENERATE}' prints a key) for this process and for "
            "Prometheus, or TASKS_METRICS_HOST=127.0.0.1"
        )
    return Address(settings.metrics_host, settings.metrics_port, key)


def _is_local(host: str) -> bool:
    name, _ = parse_host(host)
    return is_loopback_host(name.strip("[]")) or name.endswith(".localhost")
