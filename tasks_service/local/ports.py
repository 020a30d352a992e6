"""Addresses and ports: URLs of listening addresses, HTTP probes, free and taken ports."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing

from ..domain.errors import ConfigurationError

#: Seconds that an HTTP answer may take.
ANSWER_SECONDS = 2.0


def reachable(host: str) -> str:
    """The host to connect to, on this machine, for an address that a service listens on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - not bound


def http_url(host: str, port: int, path: str = "") -> str:
    """The URL of a service that listens on an address."""
    name = reachable(host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}{path}"


def http_status(host: str, port: int, path: str) -> int | None:
    """The status of the answer to a GET; None if nothing answers."""
    connection = http.client.HTTPConnection(reachable(host), port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def refuse_taken(host: str, port: int, variable: str) -> None:
    """Refuse a port that another process listens on.

    Raises:
        ConfigurationError: It is taken; the message names the variable that chooses another.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} on {host} cannot be used ({error.strerror}). "
                f"Is the service up already? Choose another port with {variable}."
            ) from None
