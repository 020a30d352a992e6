"""The parts of this package that not every installation has, and what to say where one is missing.

`pip install tasks-service` brings what workers and authors need. What a front end needs beside it is the
extra `server`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from .domain.errors import ConfigurationError

SERVER = frozenset(
    {"anyio", "cryptography", "httptools", "httpx2", "mcp", "mcp_types", "starlette", "uvicorn", "uvloop"}
)
"""Modules that the extra `server` brings."""


@contextmanager
def front_end_packages(user: str) -> Iterator[None]:
    """Import what only a front end or a client needs, or say how to get it.

    Args:
        user: What needs it, to begin a sentence with.

    Raises:
        ConfigurationError: The extra `server` is not installed, or only in part.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in SERVER:
            raise
        raise ConfigurationError(
            f"{user} needs the package {error.name}, which this environment has not. Workers do without it; "
            "for front ends and clients: pip install 'tasks-service[server]'."
        ) from error


def require_front_end_packages(user: str) -> None:
    """Look whether the extra `server` is installed, without importing any of it.

    Args:
        user: What needs it, to begin a sentence with.

    Raises:
        ConfigurationError: It is not, or only in part.
    """
    with front_end_packages(user):
        for name in sorted(SERVER):
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
