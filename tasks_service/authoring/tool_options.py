"""The options of a tool: what an author can write in `@service.tool(...)`, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Literal, TypedDict

from ..domain.errors import ConfigurationError
from ..domain.scopes import SERVICE, is_granted, is_scope
from ..domain.task import DAY, MINUTE, Policy
from ..domain.tools import TaskSupport
from ..durable.annotations import ToolAnnotations, as_tool_annotations
from ..durable.questions import Form, Link, Question, declared_questions
from ..durable.retry import RetryPolicy
from ..durable.sdk_objects import SDKObject
from .refusals import Place

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
        poll_interval: How long clients are asked to wait between two polls, at first. Default 1 second.
        max_poll_interval: And at most: a twentieth of the time for which the task has not moved, up to this.
            Default 10 seconds.
        max_attempts: The most attempts, those with lost workers included; then it fails. Default 3.
        retry: Which of its exceptions are retried, and after which delays. Default: none.
        lease: How long a worker may be silent before it counts as lost. Default 10 seconds; longer for code
            that holds the interpreter's lock for longer.
        queue: The Celery queue of its messages. Default `tasks`; for an exposed task, its own queue.
        ask: Questions that the client answers before the task exists, by name; the answers are in
            `ctx.answers`. Default: none.
        release_client: Whether a client of 2025-11-25 that waits for the result of a plain call may
            disconnect while the tool sleeps, and is told when to come back. Default: no.
        scopes: What the token of a caller that has signed in must allow, beside calls of tools. Default:
            nothing more. Callers with an API key are not limited by scopes.
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
    max_poll_interval: timedelta
    max_attempts: int
    retry: RetryPolicy | None
    lease: timedelta
    queue: str
    ask: Mapping[str, Form | Link]
    release_client: bool
    scopes: Sequence[str]


def tool_fields(place: Place, options: ToolOptions, queue: str) -> dict[str, Any]:
    """Check a tool's options, and convert them to what `build_tool` takes.

    Args:
        place: The function, for errors.
        options: What its author wrote.
        queue: The queue, unless an option names another.

    Raises:
        ConfigurationError: An option is unknown, or has a value that cannot work; the message names place and
            option, and what to write instead.
    """
    check_known(place, options, ToolOptions.__annotations__)
    for option in ("name", "title", "description", "queue"):
        _check_text(place, option, options.get(option))
    support = _support(place, options)
    handle_after = options.get("handle_after")
    if handle_after is not None and support is not TaskSupport.OPTIONAL:
        raise ConfigurationError(
            f"{place}: handle_after= is for task='optional' only, not for task='{support}'"
        )
    release_client = options.get("release_client", False)
    if not isinstance(release_client, bool):
        raise _refused(place, "release_client", release_client, "True or False")
    if release_client and support is TaskSupport.REQUIRED:
        raise ConfigurationError(
            f"{place}: release_client= is for calls without a task, which task='required' has none of"
        )
    return {
        "name": options.get("name"),
        "title": options.get("title"),
        "description": options.get("description"),
        "annotations": _annotations(place, options),
        "input_schema": options.get("input_schema"),
        "support": support,
        "policy": _policy(place, options),
        "queue": options.get("queue") or queue,
        "retry": _retry(place, options),
        "grace_ms": _grace_ms(place, options, support),
        "handle_after_ms": 0 if handle_after is None else duration_ms(place, "handle_after", handle_after),
        "ask": _questions(place, options),
        "release_client": release_client,
        "scopes": _scopes(place, options),
    }


def check_known(place: Place, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse unknown options.

    Raises:
        ConfigurationError: There are some; the message names them, and the nearest that there are.
    """
    names = list(known)
    for option in sorted(set(options) - set(names)):
        nearest = get_close_matches(option, names, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]}=?" if nearest else f"there are {', '.join(names)}"
        raise ConfigurationError(f"{place}: there is no option {option}=; {advice}")


def quoted_duration(value: Any) -> str:
    """A number of seconds as somebody may have meant it, for an error; empty if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f", as in timedelta(seconds={value})"


def _refused(place: Place | str, option: str, value: Any, expected: str) -> ConfigurationError:
    return ConfigurationError(f"{place}: {option}={value!r}: expected {expected}")


def _check_text(place: Place, option: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise _refused(place, option, value, "a text")


def _annotations(place: Place, options: ToolOptions) -> ToolAnnotations | None:
    try:
        return as_tool_annotations(options.get("annotations"))
    except TypeError as error:
        raise ConfigurationError(f"{place}: annotations=: {error}") from None


def _support(place: Place, options: ToolOptions) -> TaskSupport:
    wanted = options.get("task", "optional")
    try:
        return TaskSupport(wanted)
    except ValueError:
        raise _refused(place, "task", wanted, "'forbidden', 'optional' or 'required'") from None


def _questions(place: Place, options: ToolOptions) -> dict[str, Question]:
    ask = options.get("ask", {})
    if not isinstance(ask, Mapping):
        raise _refused(place, "ask", ask, "questions by their names, as in {'sure': Form('Sure?', Answer)}")
    return declared_questions(str(place), ask)


def _retry(place: Place, options: ToolOptions) -> RetryPolicy | None:
    retry: Any = options.get("retry")
    if retry is None or isinstance(retry, RetryPolicy):
        return retry
    kinds = retry if isinstance(retry, tuple | list) else (retry,)
    if kinds and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        named = ", ".join(kind.__name__ for kind in kinds)
        raise _refused(place, "retry", retry, f"a RetryPolicy, as in RetryPolicy(on=({named},))")
    if isinstance(retry, int):
        raise _refused(
            place, "retry", retry, f"a RetryPolicy; the number of attempts is max_attempts={int(retry) or 1}"
        )
    raise _refused(place, "retry", retry, "a RetryPolicy")


def _grace_ms(place: Place, options: ToolOptions, support: TaskSupport) -> int:
    grace = options.get("grace", timedelta(0))
    if grace == timedelta(0):
        return 0
    if support is not TaskSupport.OPTIONAL:
        raise ConfigurationError(f"{place}: grace= is for task='optional' only, not for task='{support}'")
    return duration_ms(place, "grace", grace)


def _scopes(place: Place, options: ToolOptions) -> tuple[str, ...]:
    scopes: Any = options.get("scopes", ())
    if isinstance(scopes, str) or not isinstance(scopes, Sequence) or not all(map(is_scope, scopes)):
        raise _refused(place, "scopes", scopes, "a list of scopes, as in ['reports:write']")
    if own := sorted({scope for scope in scopes if is_granted(scope, (SERVICE,))}):
        raise ConfigurationError(
            f"{place}: scopes={scopes!r}: {', '.join(own)} is the service's own, and is required where it "
            "must be; name scopes of your own, as in ['reports:write']"
        )
    return tuple(dict.fromkeys(scopes))


def _policy(place: Place, options: ToolOptions) -> Policy:
    durations: dict[str, Any] = {
        f"{option}_ms": duration_ms(place, option, options[option])
        for option in (
            "ttl",
            "retention",
            "queue_timeout",
            "timeout",
            "poll_interval",
            "max_poll_interval",
            "lease",
        )
        if option in options
    }
    attempts: Any = options.get("max_attempts", Policy().max_attempts)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise _refused(place, "max_attempts", attempts, "a whole number of at least 1")
    policy = Policy(**durations, max_attempts=attempts)
    if policy.lease_ms < 1000:
        raise ConfigurationError(
            f"{place}: lease: at least 1 second is needed, for a worker to renew it in time"
        )
    check_retention(place, policy)
    return policy


def check_retention(place: Place | str, policy: Policy) -> None:
    """Refuse a retention that leaves a task no time to run.

    Raises:
        ConfigurationError: It is as long as the longest life of a task.
    """
    if policy.retention_ms > policy.max_lifetime_ms - MINUTE:
        raise ConfigurationError(
            f"{place}: retention: less than {policy.max_lifetime_ms // DAY} days, or no time is left"
        )


def duration_ms(place: Place | str, option: str, duration: timedelta) -> int:
    """The milliseconds of a duration.

    Args:
        place: Where the option is written, for errors.
        option: Its name.
        duration: Its value.

    Raises:
        ConfigurationError: It is none, or not positive, or too long.
    """
    if not isinstance(duration, timedelta):
        raise _refused(place, option, duration, f"a datetime.timedelta{quoted_duration(duration)}")
    if not timedelta(0) < duration <= LONGEST:
        raise ConfigurationError(
            f"{place}: {option}={duration}: expected more than 0 and at most {LONGEST.days} days"
        )
    return max(round(duration.total_seconds() * 1000), 1)
