"""The encryption parameters in URLs of Redis and of brokers, translated for each library.

The parameters are those of redis-py, for every encrypted scheme. The certificate is verified unless the URL
has `ssl_cert_reqs=none`; by default, kombu does not verify a `rediss://` broker at all.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Parameters that name a file: the certificates of trusted CAs, and our own certificate and its key."""

REQUIREMENTS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
"""The values of `ssl_cert_reqs`."""

BOOLEANS = {"true": True, "false": False}
"""The values of `ssl_check_hostname`."""

ENCRYPTED = ("rediss", "amqps")
"""Schemes of encrypted connections; of a scheme with a plus sign, the first part."""


def split(url: str) -> SplitResult:
    """Split a URL that may name several hosts, IPv6 addresses among them.

    `urlsplit` takes the hosts for one, and refuses brackets in the middle.
    """
    scheme, mark, rest = url.partition("://")
    hosts = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if not mark or not re.search("[,;]", hosts):
        return urlsplit(url)
    return urlsplit(f"{scheme}://{rest.removeprefix(hosts)}")._replace(netloc=hosts)


def check_encryption(url: str) -> None:
    """Refuse encryption parameters that cannot work.

    Raises:
        ValueError: The message names the parameter and what was expected, but not the URL, which may hold a
            password.
    """
    parts = split(url)
    given = _given(parts)
    if given and not _is_encrypted(parts):
        raise ValueError(f"{', '.join(given)}: only for {' and '.join(f'{s}://' for s in ENCRYPTED)}")
    for name, value in given.items():
        if name in FILES:
            if not os.access(value, os.R_OK):
                raise ValueError(f"{name}={value}: there is no such file, or it may not be read")
        elif name == "ssl_cert_reqs":
            _one_of(name, value, REQUIREMENTS)
        elif name == "ssl_check_hostname":
            _one_of(name, value, BOOLEANS)
        else:
            known = ", ".join((*FILES, "ssl_cert_reqs", "ssl_check_hostname"))
            raise ValueError(f"{name} is not known; expected one of {known}")
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise ValueError("ssl_keyfile: its certificate is missing; name it by ssl_certfile")


def secured(broker_url: str) -> tuple[str, dict[str, Any] | None]:
    """Split a broker's URL into a URL without encryption parameters, and Celery's `broker_use_ssl`.

    Args:
        broker_url: A URL that `check_encryption` has accepted; if its scheme is not encrypted, the second
            value is None.
    """
    parts = split(broker_url)
    if parts.scheme not in ENCRYPTED:
        return broker_url, None
    given = _given(parts)
    query = {name: values for name, values in parse_qs(parts.query).items() if name not in given}
    bare = parts._replace(query=urlencode(query, doseq=True)).geturl()
    options = redis_encryption(given)
    if parts.scheme == "rediss":
        return bare, options
    return bare, {
        **{name.removeprefix("ssl_"): options[name] for name in (*FILES, "ssl_cert_reqs") if name in options},
        "server_hostname": parts.hostname if options["ssl_check_hostname"] else None,
    }


def redis_encryption(given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a URL, typed for redis-py; certificate and host name are verified by default."""
    required = REQUIREMENTS[given.get("ssl_cert_reqs", "required")]
    named = BOOLEANS[given.get("ssl_check_hostname", "true")] and required is not ssl.CERT_NONE
    files = {name: given[name] for name in FILES if name in given}
    return {**files, "ssl_cert_reqs": required, "ssl_check_hostname": named}


def is_open(url: str) -> bool:
    """Whether connections leave this machine without encryption."""
    return any(_is_open(split(one)) for one in url.split(";"))


def is_unverified(url: str) -> bool:
    """Whether connections leave this machine encrypted, and it is not verified who answers."""
    return any(
        _is_encrypted(parts)
        and redis_encryption(_given(parts))["ssl_cert_reqs"] is not ssl.CERT_REQUIRED
        and _leaves_machine(parts)
        for parts in map(split, url.split(";"))
    )


def _is_open(parts: SplitResult) -> bool:
    if _is_encrypted(parts) or "socket" in parts.scheme or parts.scheme == "unix":
        return False
    return _leaves_machine(parts)


def _leaves_machine(parts: SplitResult) -> bool:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    return any(_is_elsewhere(urlsplit(f"//{host.strip()}").hostname) for host in hosts)


def _is_elsewhere(host: str | None) -> bool:
    if not host:
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _is_encrypted(parts: SplitResult) -> bool:
    return parts.scheme.partition("+")[0] in ENCRYPTED


def _given(parts: SplitResult) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(parts.query).items() if name.startswith("ssl_")}


def _one_of(name: str, value: str, allowed: dict[str, Any]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value}: expected one of {', '.join(allowed)}")
