"""How a process of the service logs: to stderr, in one format, from one level upwards."""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

from .formats import FORMATTERS, PROCESS
from .records import carry_context

LIBRARIES: Final = ("amqp", "asyncio", "httpcore", "httpcore2", "httpx", "httpx2", "kombu", "mcp", "redis")
"""Loggers of libraries that tell of each thing that they do; they are heard from warnings upwards, unless
everything is wanted (`debug`)."""


_NAME: Final = "tasks-service"
"""The name of our handler."""


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is stderr at that moment, which a program that runs a command may have replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there, which is looked up each time
        return sys.stderr


def log_to_stderr(
    *, format_name: str, level: str, role: str, service: str = "", stream: TextIO | None = None
) -> None:
    """Set up the log of a process that is ours alone.

    Args:
        format_name: `text` or `json`.
        level: The lowest level that is logged.
        role: What the process is.
        service: The name of its service, if there is one.
        stream: In place of stderr.
    """
    PROCESS.role, PROCESS.service = role, service
    handler = _Stderr() if stream is None else logging.StreamHandler(stream)
    handler.name = _NAME
    handler.setFormatter(FORMATTERS[format_name]())
    root = logging.getLogger()
    for former in [known for known in root.handlers if known.name == _NAME]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    quiet(LIBRARIES, level)
    carry_context()


def quiet(names: tuple[str, ...], level: str) -> None:
    """Hear loggers from warnings upwards only, unless everything is wanted.

    Args:
        names: Of the loggers.
        level: The lowest level that is logged otherwise.
    """
    if level == "debug":
        return
    for name in names:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(max(logging.WARNING, getattr(logging, level.upper())))
