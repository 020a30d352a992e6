"""The log of Celery's own processes, workers and beat: the same lines as everywhere, from the same level.

Celery configures the log of its processes, and says when it has (`after_setup_logger`). What it has
configured by its own defaults is then given our formatter. What somebody else has configured stays: by a
receiver of `setup_logging`, by `worker_hijack_root_logger = False`, or by a format of their own. Records
carry their task there too (see `observability.records`).

`--loglevel` on Celery's command line is the level of everything, as ever. Without it, it is
`TASKS_LOG_LEVEL`, in place of Celery's WARNING; then what Celery says of each message is heard from warnings
upwards, on an app of ours, since each is a line about a task that has lines already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
from celery import Celery, signals
from celery._state import get_current_task
from celery.app import defaults
from celery.utils.log import ColorFormatter
from click.core import ParameterSource

from ..observability.formats import FORMATTERS, PROCESS
from ..observability.records import carry_context
from ..observability.setup import LIBRARIES, quiet
from ..settings import Settings

OF_EACH_MESSAGE: Final = ("celery.app.trace", "celery.beat", "celery.worker.strategy")
"""Loggers of Celery that have lines about each message."""

_ROLES: Final = ("worker", "beat")


def log_like_other_processes(
    app: Celery, settings: Settings, service: str, *, owns_app: bool
) -> Callable[[], None]:
    """Have the log of Celery's processes for an app look as that of all others does.

    Args:
        app: Ours, or a shop's.
        settings: They say how.
        service: The name of the service.
        owns_app: Whether the app is ours.

    Returns:
        Does the same for Flower, which sets up its log by Tornado's means, with a level of its own.
    """

    def adopt(logger: logging.Logger, **_: Any) -> None:
        if not _has_celerys_defaults(app) or not _is_of(app):
            return
        PROCESS.role, PROCESS.service = role(), service
        carry_context()
        for handler in logger.handlers:
            if isinstance(handler.formatter, ColorFormatter):
                handler.setFormatter(FORMATTERS[settings.log_format](_celery_task))
        if not _is_level_given():
            logger.setLevel(settings.log_level.upper())
            quiet((*LIBRARIES, *(OF_EACH_MESSAGE if owns_app else ())), settings.log_level)

    signals.after_setup_logger.connect(adopt, weak=False)
    signals.after_setup_task_logger.connect(adopt, weak=False)

    def adopt_flowers() -> None:
        PROCESS.role, PROCESS.service = "flower", service
        for handler in logging.getLogger().handlers:
            if type(handler.formatter).__module__ == "tornado.log":
                handler.setFormatter(FORMATTERS[settings.log_format]())

    return adopt_flowers


def role() -> str:
    """What the process is that runs Celery's command; a worker that is run by other means is one as well."""
    context = click.get_current_context(silent=True)
    name = None if context is None else context.info_name
    return name if name in _ROLES else "worker"


def _has_celerys_defaults(app: Celery) -> bool:
    conf = app.conf
    return bool(
        conf.worker_hijack_root_logger
        and conf.worker_log_format == defaults.DEFAULT_PROCESS_LOG_FMT
        and conf.worker_task_log_format == defaults.DEFAULT_TASK_LOG_FMT
    )


def _is_of(app: Celery) -> bool:
    """Whether it is this app whose process this is; a process may import a service and run another's."""
    context = click.get_current_context(silent=True)
    ran = None if context is None else getattr(context.find_root().obj, "app", None)
    return ran is None or ran is app or getattr(ran, "_get_current_object", lambda: ran)() is app


def _is_level_given() -> bool:
    """Whether the command line says from which level to log."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source("loglevel") is ParameterSource.COMMANDLINE


def _celery_task() -> Mapping[str, Any]:
    """The Celery task that runs in this thread, for lines that no tool's task is behind."""
    running = get_current_task()
    if running is None or not running.request:
        return {}
    return {"celery_task": running.name, "celery_id": running.request.id}
