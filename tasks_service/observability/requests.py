"""A line for each request that does something, or has tried to; at DEBUG for each that only looks."""

from __future__ import annotations

import logging
from typing import Any

from .context import Context
from .records import emit

logger = logging.getLogger("tasks_service.requests")


def level_of(context: Context) -> int:
    """At which level a request is told."""
    return logging.INFO if context.acts else logging.DEBUG


def log_request(
    method: str, context: Context, *, outcome: str, code: int | None, count: int, seconds: float
) -> None:
    """Log what became of a request; its level must be on.

    Args:
        method: What was asked, as the audit log names it.
        context: Who asked, and about which task.
        outcome: What became of it.
        code: The error's code.
        count: How many such requests the line stands for.
        seconds: How long it took.
    """
    fields: dict[str, Any] = context.fields()
    fields["method"], fields["outcome"] = method, outcome
    if code is not None:
        fields["code"] = code
    if count != 1:
        fields["count"] = count
    fields["duration_ms"] = round(seconds * 1000, 1)
    emit(logger, level_of(context), "A request was answered", fields)
