"""Whether a tool runs here, and of which kind: what a tool does with other tasks is recorded as its steps."""

from __future__ import annotations

from ..domain.errors import ConfigurationError
from ..durable.context import AsyncTaskContext, TaskContext, running_context


def sync_tool(call: str, instead: str) -> TaskContext | None:
    """The context of the sync tool that runs here; None if no tool does.

    Args:
        call: What is called, for the error.
        instead: What an async tool writes.

    Raises:
        ConfigurationError: An async tool runs here.
    """
    context = running_context()
    if isinstance(context, AsyncTaskContext):
        raise ConfigurationError(
            f"Tool {context.tool!r} runs on an event loop, which {call} would block: write {instead}"
        )
    return context


def async_tool(call: str, instead: str) -> AsyncTaskContext | None:
    """The context of the async tool that runs here; None if no tool does.

    Args:
        call: What is called, for the error.
        instead: What a sync tool writes.

    Raises:
        ConfigurationError: A sync tool runs here.
    """
    context = running_context()
    if isinstance(context, TaskContext):
        raise ConfigurationError(
            f"Tool {context.tool!r} is no async function, and its steps are taken in its own thread: instead "
            f"of {call}, write {instead}, or make the tool async"
        )
    return context
