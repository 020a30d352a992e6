"""What a tool raised, made fit to be looked at, and as the task's record keeps it for operators."""

from __future__ import annotations

import traceback
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from ..domain.events import CompleteWithResult, FailWithError, Retry, WorkerEvent
from ..domain.task import ToolException

_OURS = __name__.partition(".")[0] + "."

LONGEST_CHAIN = 50
"""How many causes of causes are kept, at most: showing a chain takes the square of its length."""

E = TypeVar("E", bound=WorkerEvent)


class UnreadableException(Exception):
    """Stands for an exception of which nothing but its class can be known, since looking at it raises."""


def readable(error: BaseException) -> BaseException:
    """What a tool raised, such that it can be asked for its class, and logged: mostly itself.

    An author's class may raise something else whenever it is looked at, also by `isinstance` or by a logging
    handler. And a chain of causes may be so long that showing it takes minutes; it is cut.
    """
    try:
        _ = error.__class__
        _cut_causes(error)
        traceback.format_exception(error)
    except BaseException:
        kind = type(error)
        return UnreadableException(f"{kind.__module__}.{kind.__qualname__}, which cannot be looked at")
    return error


def _cut_causes(error: BaseException) -> None:
    link = error
    for _ in range(LONGEST_CHAIN):
        is_cause = link.__suppress_context__ or link.__cause__ is not None
        following = link.__cause__ if is_cause else link.__context__
        if following is None:
            return
        link = following
    link.__cause__ = link.__context__ = None


def with_exception(event: E, error: BaseException, claim: int) -> E:
    """The event that ends an attempt, with what its tool raised.

    Args:
        event: The event.
        error: What was raised.
        claim: Which claim's attempt this is.
    """
    if isinstance(event, CompleteWithResult | FailWithError | Retry):
        return replace(event, exception=exception_of(error, claim))
    return event


def exception_of(error: BaseException, claim: int) -> ToolException:
    """An exception for operators. It may be of any class, also of one whose own methods raise."""
    kind = type(error)
    return ToolException(
        type=f"{kind.__module__}.{kind.__qualname__}",
        message=_message(error),
        traceback=_traceback(error),
        claim=claim,
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as failure:
        return f"(it cannot be shown: its __str__ raised {type(failure).__name__})"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, _without_ours(error.__traceback__)))
    except BaseException as failure:
        return f"(it cannot be shown: {type(failure).__name__})"


def _without_ours(place: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not this package's."""
    while place is not None and place.tb_next is not None and _is_ours(place):
        place = place.tb_next
    return place


def _is_ours(place: TracebackType) -> bool:
    return str(place.tb_frame.f_globals.get("__name__", "")).startswith(_OURS)
