"""Celery's processes log as the others do, unless somebody else has configured their log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from celery import Celery
from celery.utils.dispatch import Signal
from celery.utils.log import ColorFormatter

from tasks_service import Settings
from tasks_service.observability.formats import PROCESS, JsonFormatter
from tasks_service.worker import celery_logging
from tasks_service.worker.celery_logging import OF_EACH_MESSAGE, log_like_other_processes

SETTINGS = Settings(log_format="json", log_level="error")


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Signals that nobody else in this process has connected to."""
    fresh = SimpleNamespace(after_setup_logger=Signal(), after_setup_task_logger=Signal())
    monkeypatch.setattr(celery_logging, "signals", fresh)
    before = [(name, logging.getLogger(name).level) for name in OF_EACH_MESSAGE]
    role, service = PROCESS.role, PROCESS.service
    yield fresh
    PROCESS.role, PROCESS.service = role, service
    for name, level in before:
        logging.getLogger(name).setLevel(level)


def set_up(signals: SimpleNamespace, formatter: logging.Formatter | None = None) -> logging.Logger:
    """What Celery does at the start of a worker: a logger with its formatter, and the signal."""
    logger = logging.Logger("root of a test", logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter or ColorFormatter())
    logger.addHandler(handler)
    signals.after_setup_logger.send(sender=None, logger=logger)
    return logger


def formatter_of(logger: logging.Logger) -> logging.Formatter | None:
    return logger.handlers[0].formatter


def test_what_celery_has_configured_by_its_defaults_is_formatted_as_everywhere(
    signals: SimpleNamespace,
) -> None:
    log_like_other_processes(Celery("shop", set_as_current=False), SETTINGS, "Shop", owns_app=False)
    logger = set_up(signals)

    assert isinstance(formatter_of(logger), JsonFormatter)
    assert logger.level == logging.ERROR
    assert (PROCESS.role, PROCESS.service) == ("worker", "Shop")


@pytest.mark.parametrize(
    "configured",
    [
        {"worker_hijack_root_logger": False},
        {"worker_log_format": "%(message)s"},
        {"worker_task_log_format": "%(task_name)s %(message)s"},
    ],
    ids=lambda configured: next(iter(configured)),
)
def test_what_a_shop_has_configured_stays(signals: SimpleNamespace, configured: dict[str, Any]) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.update(configured)
    log_like_other_processes(app, SETTINGS, "Shop", owns_app=False)
    logger = set_up(signals)

    assert type(formatter_of(logger)) is ColorFormatter
    assert logger.level == logging.WARNING


def test_a_handler_of_a_shops_own_keeps_its_format(signals: SimpleNamespace) -> None:
    log_like_other_processes(Celery("shop", set_as_current=False), SETTINGS, "Shop", owns_app=False)
    own = logging.Formatter("%(message)s")

    assert formatter_of(set_up(signals, own)) is own


def test_a_process_that_runs_another_app_keeps_its_log(signals: SimpleNamespace) -> None:
    log_like_other_processes(Celery("tools", set_as_current=False), SETTINGS, "Tools", owns_app=True)
    with click.Context(
        click.Command("celery"), obj=SimpleNamespace(app=Celery("shop", set_as_current=False))
    ):
        logger = set_up(signals)

    assert type(formatter_of(logger)) is ColorFormatter


def test_the_level_of_the_command_line_wins(signals: SimpleNamespace) -> None:
    log_like_other_processes(Celery("tools", set_as_current=False), SETTINGS, "Tools", owns_app=True)
    command = click.Command("worker", params=[click.Option(["--loglevel"])])
    with command.make_context("worker", ["--loglevel", "INFO"]):
        given = set_up(signals)
    with command.make_context("beat", []):
        left = set_up(signals)

    assert (given.level, left.level) == (logging.WARNING, logging.ERROR)
    assert PROCESS.role == "beat"
