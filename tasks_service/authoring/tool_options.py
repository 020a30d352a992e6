"""The options of a tool: what an author can write in `@service.tool(...)`, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, TypedDict

from ..domain.errors import ConfigurationError
from ..domain.task import DAY, MINUTE, Policy
from ..domain.tools import TaskSupport
from ..durable.annotations import ToolAnnotations, as_tool_annotations
from ..durable.questions import Form, Link, declared_questions
from ..durable.retry import RetryPolicy
from ..durable.sdk_objects import SDKObject

Support = Literal["forbidden", "optional", "required"]


LONGEST = timedelta(days=30)
"""The longest duration of any option: a task lives no longer."""


class ToolOptions(TypedDict, total=False):
    """The options of a tool. Durations are positive and at most 30 days.

    Attributes:
        name: The name by which clients call it; defaults to the function's name.
        title: For people; shown by clients in place of the name.
        description: For the model that chooses among tools; defaults to the docstring.
        annotations: Hints for clients: read-only, destructive, idempotent.
        input_schema: JSON Schema 2020-12 of the arguments, listed as it is; the function gets the arguments
            by name, unconverted. Default: from the signature.
        task: Whether a call may (`optional`, the default), must (`required`) or must not (`forbidden`)
            become a task that the client sees.
        grace: How long an `optional` call waits for its result before it is answered with a task. Default 0:
            not at all.
        handle_after: How long a call without a task of an `optional` tool waits before it is answered with a
            text that names the task. Default: `TASKS_HANDLE_AFTER`. Clients that are known to give up earlier
            are answered earlier.
        ttl: A task is kept at least this long after its creation. Default 1 hour.
        retention: A task is kept at least this long after its end, too. Default 1 hour.
        queue_timeout: How long it may wait for a worker before it fails. Default 1 day.
        timeout: How long one attempt may run before the task fails. Default 1 day.
        poll_interval: How long clients are asked to wait between two polls. Default 1 second.
        max_attempts: The most attempts, those with lost workers included; then it fails. Default 3.
        retry: Which of its exceptions are retried, and after which delays. Default: none.
        lease: How long a worker may be silent before it counts as lost. Default 10 seconds; longer for code
            that holds the interpreter's lock for longer.
        queue: The Celery queue of its messages. Default `tasks`; for an exposed task, its own queue.
        ask: Questions that the client answers before the task exists, by name; the answers are in
            `ctx.answers`. Default: none.
        release_client: Whether a client of 2025-11-25 that waits for the result of a plain call may
            disconnect while the tool sleeps, and is told when to come back. Default: no.
    """

    name: str | None
    title: str | None
    description: str | None
    annotations: ToolAnnotations | SDKObject | None
    input_schema: Mapping[str, Any] | None
    task: Support
    grace: timedelta
    handle_after: timedelta
    ttl: timedelta
    retention: timedelta
    queue_timeout: timedelta
    timeout: timedelta
    poll_interval: timedelta
    max_attempts: int
    retry: RetryPolicy | None
    lease: timedelta
    queue: str
    ask: Mapping[str, Form | Link]
    release_client: bool


def tool_fields(options: ToolOptions, queue: str) -> dict[str, Any]:
    """Check a tool's options, and convert them to what `build_tool` takes."""
    name = options.get("name") or "the tool"
    if unknown := set(options) - set(ToolOptions.__annotations__):
        raise ConfigurationError(f"{name}: there is no option {', '.join(sorted(unknown))}")
    support = _support(options)
    grace = options.get("grace", timedelta(0))
    if grace and support is not TaskSupport.OPTIONAL:
        raise ConfigurationError(f"{name}: grace= is for task='optional' only, not for task='{support}'")
    handle_after = options.get("handle_after")
    if handle_after is not None and support is not TaskSupport.OPTIONAL:
        raise ConfigurationError(
            f"{name}: handle_after= is for task='optional' only, not for task='{support}'"
        )
    release_client = options.get("release_client", False)
    if not isinstance(release_client, bool):
        raise ConfigurationError(f"{name}: release_client={release_client!r}: expected True or False")
    if release_client and support is TaskSupport.REQUIRED:
        raise ConfigurationError(
            f"{name}: release_client= is for calls without a task, which task='required' has none of"
        )
    return {
        "name": options.get("name"),
        "title": options.get("title"),
        "description": options.get("description"),
        "annotations": _annotations(name, options),
        "input_schema": options.get("input_schema"),
        "support": support,
        "policy": _policy(options),
        "queue": options.get("queue") or queue,
        "retry": options.get("retry"),
        "grace_ms": _milliseconds("grace", grace) if grace else 0,
        "handle_after_ms": 0 if handle_after is None else _milliseconds("handle_after", handle_after),
        "ask": declared_questions(name, options.get("ask", {})),
        "release_client": release_client,
    }


def _annotations(name: str, options: ToolOptions) -> ToolAnnotations | None:
    try:
        return as_tool_annotations(options.get("annotations"))
    except TypeError as error:
        raise ConfigurationError(f"{name}: annotations=: {error}") from None


def _support(options: ToolOptions) -> TaskSupport:
    wanted = options.get("task", "optional")
    try:
        return TaskSupport(wanted)
    except ValueError:
        raise ConfigurationError(f"task={wanted!r}: expected 'forbidden', 'optional' or 'required'") from None


def _policy(options: ToolOptions) -> Policy:
    durations: dict[str, Any] = {
        f"{option}_ms": _milliseconds(option, options[option])
        for option in ("ttl", "retention", "queue_timeout", "timeout", "poll_interval", "lease")
        if option in options
    }
    attempts = options.get("max_attempts", Policy().max_attempts)
    if attempts < 1:
        raise ConfigurationError(f"max_attempts={attempts}: at least 1 is needed")
    policy = Policy(**durations, max_attempts=attempts)
    if policy.lease_ms < 1000:
        raise ConfigurationError("lease: at least 1 second is needed, for a worker to renew it in time")
    if policy.retention_ms > policy.max_lifetime_ms - MINUTE:
        raise ConfigurationError(
            f"retention: less than {policy.max_lifetime_ms // DAY} days, or no time is left"
        )
    return policy


def _milliseconds(option: str, duration: timedelta) -> int:
    if not isinstance(duration, timedelta):
        raise ConfigurationError(f"{option}={duration!r}: expected a datetime.timedelta")
    if not timedelta(0) < duration <= LONGEST:
        raise ConfigurationError(f"{option}={duration}: expected more than 0 and at most {LONGEST.days} days")
    return max(round(duration.total_seconds() * 1000), 1)
