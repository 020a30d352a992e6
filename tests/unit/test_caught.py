"""What a record keeps of an exception: of any class, and from the tool's own code on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tasks_service.domain.events import CompleteWithResult, Release
from tasks_service.domain.task import JsonText
from tasks_service.worker.caught import exception_of, with_exception


class Unspeakable(Exception):
    """Its own methods raise."""

    def __str__(self) -> str:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise ValueError

    @property
    def __notes__(self) -> list[str]:
        raise KeyboardInterrupt


def classes(base: type[BaseException] = BaseException) -> Iterator[type[BaseException]]:
    for kind in base.__subclasses__():
        if kind.__module__ == "builtins":
            yield kind
            yield from classes(kind)


def caught(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def tool() -> None:
    try:
        {}["scene"]
    except KeyError as error:
        raise ValueError("no scene") from error


def test_it_has_class_message_and_traceback_with_its_cause() -> None:
    kept = exception_of(caught(tool), 7)
    assert (kept.type, kept.message, kept.claim) == ("builtins.ValueError", "no scene", 7)
    assert "KeyError: 'scene'" in kept.traceback
    assert "in tool" in kept.traceback


@pytest.mark.parametrize("kind", sorted(set(classes()), key=lambda kind: kind.__name__))
def test_every_exception_class_of_python_is_kept(kind: type[BaseException]) -> None:
    is_group = issubclass(kind, BaseExceptionGroup)
    members = [ValueError() if issubclass(kind, Exception) else KeyboardInterrupt()]
    kept = exception_of(kind.__new__(kind, *(("several", members) if is_group else ())), 1)
    assert kept.type.endswith(kind.__name__)
    assert kept.traceback


def test_an_exception_whose_own_methods_raise_is_kept_by_its_class() -> None:
    kept = exception_of(Unspeakable(), 1)
    assert kept.type.endswith("Unspeakable")
    assert "SystemExit" in kept.message
    assert kept.traceback


def test_a_chain_of_many_exceptions_is_kept() -> None:
    error: BaseException | None = None
    for number in range(5_000):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    assert error is not None
    assert exception_of(error, 1).type == "builtins.ValueError"


def test_an_event_that_ends_no_tool_has_none() -> None:
    error, release = ValueError(), Release(lease_id="l")
    assert with_exception(release, error, 1) is release
    done = with_exception(CompleteWithResult(lease_id="l", result=JsonText("{}")), error, 2)
    assert done.exception is not None and done.exception.claim == 2
