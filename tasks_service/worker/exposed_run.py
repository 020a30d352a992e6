"""A run of an existing Celery task as a tool: what Celery's tracer does around a task, for an attempt.

The tool is a Celery task of its own, which claims and commits like any other, and for which Celery sends its
signals. Within the attempt the shop's own object runs, with a request that says what Celery's would, and its
hooks are called once: `before_start` each time that it starts from the top, the others when it has ended and
that is recorded. None of those is called where it has not ended: it waits, or was handed back, or cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol, cast

from billiard.einfo import ExceptionInfo
from celery import Celery, Task, states
from celery._state import pop_current_task, push_current_task
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.saferepr import saferepr
from celery.utils.time import maybe_make_aware
from kombu.exceptions import EncodeError

from ..domain.names import task_hash
from ..domain.task import FailureKind, TaskStatus
from ..domain.task import Task as TaskState
from .attempt import RunningAttempt
from .exposed import find_task
from .exposed_methods import ExposedRequest, with_mapped_methods
from .outcome import RetryRequested, Unsupported
from .request import LEASE_HEADER

logger = logging.getLogger(__name__)

Body = Callable[[RunningAttempt, dict[str, Any]], Any]


class Execute(Protocol):
    """Runs a body; see `Executor.run`."""

    def __call__(self, *, body: Body) -> TaskState | None:
        """Run it; the task as it left it, or None."""


def run_exposed(app: Celery, name: str, message: Context, execute: Execute) -> TaskState | None:
    """Run an existing Celery task as the body of a tool, and call its hooks.

    Args:
        app: The app that has the task.
        name: The task's name.
        message: Celery's request of the tool's own task.
        execute: Runs a body; see `Executor.run`.

    Returns:
        What `execute` returns.
    """
    run = _ExposedRun(app, name, message)
    try:
        ended = execute(body=run.body)
        run.call_hooks(ended)
        return ended
    finally:
        run.leave()


_OF_THE_MESSAGE = frozenset({LEASE_HEADER, "_protected", "_children"})
"""What Celery notes in a request of the tool's own task, and is not for the exposed one."""


class _ExposedRun:
    def __init__(self, app: Celery, name: str, message: Context) -> None:
        self._app, self._name, self._message = app, name, message
        self._task: Task | None = None
        self._request: ExposedRequest | None = None
        self._raised: BaseException | None = None
        self._value: Any = None

    def body(self, attempt: RunningAttempt, arguments: dict[str, Any]) -> Any:
        """Run the task.

        Raises:
            Unsupported: It used a feature of Celery that a durable task cannot have.
            RetryRequested: It asked for a retry.
            BaseException: Whatever the task raises.
        """
        task = self._task = with_mapped_methods(find_task(self._app, self._name))
        request = self._request = _request(task, self._message, attempt, arguments)
        push_current_task(task)
        task.request_stack.push(request)
        try:
            task.before_start(request.id, request.args, request.kwargs)
            self._value = task(**arguments)
        except BaseException as error:
            self._raised = error
            if isinstance(error, Retry):
                raise self._retry(error, request) from error
            if isinstance(error, Unsupported):
                raise
            if isinstance(error, Ignore):
                raise Unsupported(
                    f"The Celery task '{self._name}' ended with Ignore, which has no result."
                ) from None
            if isinstance(error, Reject):
                raise Unsupported(f"The Celery task '{self._name}' rejected its message.") from None
            raise
        if request.asked:
            self._raised = Unsupported(
                f"The Celery task '{self._name}' asked for a retry with throw=False and then returned."
            )
            raise self._raised
        return self._value

    def call_hooks(self, ended: TaskState | None) -> None:
        """Call the task's hooks for how its attempt has ended.

        Args:
            ended: The task as the attempt left it; None if the attempt wrote no outcome.
        """
        request, task = self._request, self._task
        if request is None or task is None or ended is None or isinstance(self._raised, Ignore | Reject):
            return
        if not ended.status.is_final:
            if ended.retries > request.attempt.task.retries:  # otherwise it was handed back
                self._call_on_retry(task, request)
        elif ended.status is TaskStatus.COMPLETED and self._raised is None:
            _call(task.on_success, self._value, request.id, request.args, request.kwargs)
            self._call_after_return(task, request, states.SUCCESS, self._value)
        elif ended.status in (TaskStatus.COMPLETED, TaskStatus.FAILED):
            error = _raised(self._final_error(ended))
            _call(task.on_failure, error, request.id, request.args, request.kwargs, _info(error))
            self._call_after_return(task, request, states.FAILURE, error)

    def leave(self) -> None:
        """Take the task's request away again, and keep nothing of what it raised.

        The traceback of that has this run among its variables: see `OwnTask.after_return`.
        """
        if self._task is not None and self._request is not None:
            self._task.request_stack.pop()
            pop_current_task()
        self._raised = self._value = None

    def _call_on_retry(self, task: Task, request: ExposedRequest) -> None:
        raised = self._raised
        if raised is None:
            return
        cause = raised.exc if isinstance(raised, Retry) else raised
        _call(task.on_retry, cause, request.id, request.args, request.kwargs, _info(raised))

    def _call_after_return(self, task: Task, request: ExposedRequest, state: str, value: Any) -> None:
        _call(task.after_return, state, value, request.id, request.args, request.kwargs, None)

    def _final_error(self, ended: TaskState) -> BaseException:
        """What Celery would have called the failure: what was raised, its cause, or why no result counts."""
        raised: Any = self._raised.exc if isinstance(self._raised, Retry) else self._raised
        if isinstance(raised, Exception):
            return raised
        if ended.failure is not None and ended.failure.kind is FailureKind.TIMEOUT:
            raised = SoftTimeLimitExceeded()
        else:
            raised = EncodeError("" if ended.failure is None else ended.failure.message)
        return cast("BaseException", raised)

    def _retry(self, retry: Retry, request: ExposedRequest) -> BaseException:
        cause: BaseException | None = retry.exc
        cause = cause or RuntimeError("the task asked for a retry and named no cause")
        if not request.asked:  # raised by hand: Celery would have sent nothing either
            return cause
        return RetryRequested(cause, _delay_ms(self._app, retry.when))


def _request(
    task: Task, message: Context, attempt: RunningAttempt, arguments: dict[str, Any]
) -> ExposedRequest:
    """What the task sees of its run; its id stays the same for all attempts, as with Celery's retries."""
    name = task_hash(attempt.task.task_id)
    known = {key: value for key, value in vars(message).items() if key not in _OF_THE_MESSAGE}
    headers = {key: value for key, value in (known.get("headers") or {}).items() if key != LEASE_HEADER}
    celery_id = known.get("id") or name
    changes: dict[str, Any] = {
        "id": name,
        "correlation_id": name,
        "root_id": name if known.get("root_id") in (None, celery_id) else known["root_id"],
        "task": task.name,
        "args": [],
        "kwargs": dict(arguments),
        "argsrepr": "()",
        "kwargsrepr": saferepr(arguments),
        "retries": attempt.task.retries,
        "called_directly": False,
        "ignore_result": bool(task.ignore_result),
        "timelimit": [task.time_limit, task.soft_time_limit],
        "delivery_info": known.get("delivery_info") or {},
        "headers": headers or None,
        "attempt": attempt,
        "celery_id": celery_id,
        "asked": [],
    }
    return ExposedRequest({**known, **changes})


def _delay_ms(app: Celery, when: Any) -> int:
    if isinstance(when, datetime):
        when = (maybe_make_aware(when, app.timezone) - app.now()).total_seconds()
    return max(round(float(when or 0) * 1000), 0)


def _raised(error: BaseException) -> BaseException:
    """The error with a traceback, also if nobody has raised it yet."""
    if error.__traceback__ is not None:
        return error
    with suppress(type(error)):
        raise error
    return error


def _info(error: BaseException) -> ExceptionInfo:
    return ExceptionInfo((type(error), error, error.__traceback__))


def _call(hook: Callable[..., Any], *args: Any) -> None:
    """Call a hook, and log what it raises: the outcome is recorded already."""
    try:
        hook(*args)
    except Exception:
        logger.exception("The hook %s raised", getattr(hook, "__qualname__", hook))
