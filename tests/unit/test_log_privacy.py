"""Where records are encrypted, the log says where a tool failed, and nothing that the tool says."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
from collections.abc import Iterator

import pytest

from tasks_service.domain.errors import RecordSealed
from tasks_service.log_privacy import keep_words_out_of_logs, put_words_into_logs, shown, shown_text

WORDS = "CANARY-5e1f"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the log has, with a formatter as Celery and uvicorn have it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


@pytest.fixture
def private() -> Iterator[None]:
    keep_words_out_of_logs()
    keep_words_out_of_logs()
    yield
    put_words_into_logs()


def fail() -> None:
    try:
        raise KeyError(WORDS)
    except KeyError as error:
        raise ValueError(f"cannot open {WORDS}") from error


def log_failure(name: str) -> None:
    try:
        fail()
    except ValueError as error:
        logging.getLogger(name).error("It failed: %s", shown(error), exc_info=error)


@pytest.mark.usefixtures("private")
def test_a_traceback_has_the_places_and_the_classes_and_none_of_the_words(logged: io.StringIO) -> None:
    log_failure("tasks_service.worker.outcome")
    text = logged.getvalue()
    assert WORDS not in text
    assert text.count("in fail") == 2
    assert {"builtins.ValueError", "builtins.KeyError"} <= set(text.replace(":", " ").split())


@pytest.mark.usefixtures("private")
def test_the_logs_of_others_and_our_own_errors_are_as_they_were(logged: io.StringIO) -> None:
    log_failure("shop.orders")
    assert f"ValueError: cannot open {WORDS}" in logged.getvalue()
    logging.getLogger("tasks_service.frontend").error("It failed", exc_info=RecordSealed("t", "the key 'k'"))
    assert "the key 'k'" in logged.getvalue()


@pytest.mark.usefixtures("private")
def test_a_task_that_a_tool_has_left_behind_says_nothing_either(logged: io.StringIO) -> None:
    async def left_behind() -> None:
        raise ValueError(WORDS)

    async def tool() -> None:
        task = asyncio.ensure_future(left_behind())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(tool())
    assert "builtins.ValueError" in logged.getvalue()
    assert WORDS not in logged.getvalue()


def test_without_encryption_the_log_has_everything(logged: io.StringIO) -> None:
    log_failure("tasks_service.worker.outcome")
    assert logged.getvalue().count(WORDS) == 3  # in the line, and in a traceback of two exceptions
    assert shown_text(WORDS) == WORDS
