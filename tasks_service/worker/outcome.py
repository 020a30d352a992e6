"""The event that ends an attempt, for what its tool returned or raised.

Clients see only what an author wrote for them: the message of a `ToolError`, the code of a `ProtocolError`.
Of any other exception they learn only that the tool failed (docs/protocol.md); the operator finds the
traceback in the task's record, and in the worker's log under the task's hash.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from celery.exceptions import Ignore, SoftTimeLimitExceeded

from ..authoring.tool import Rendered, Tool, error_result
from ..domain.errors import (
    ClientCannot,
    ClientError,
    HistoryMismatch,
    InvalidArguments,
    LimitExceeded,
    NotJson,
    ProtocolError,
    StoreUnavailable,
    ToolError,
    is_authors_code,
)
from ..domain.events import CompleteWithResult, FailWithError, Retry, WorkerEvent
from ..domain.limits import Limits, to_json, valid_text
from ..domain.names import task_hash
from ..domain.task import Failure, FailureKind, JsonText, Task
from ..durable.sdk_objects import SDK_PROTOCOL_ERRORS, SDK_TOOL_ERROR, is_sdk_object
from ..log_privacy import shown
from .caught import with_exception

logger = logging.getLogger(__name__)

STORE_RETRY_MS = 2_000
"""Milliseconds before the next attempt, if a tool failed because the store did not answer it."""


class Unsupported(Ignore):  # type: ignore[misc]
    """An exposed Celery task used a feature that a durable task cannot have; the message names it.

    Celery's own code for `autoretry_for` lets an `Ignore` through, whatever it is told to retry.
    """


class RetryRequested(Exception):
    """An exposed Celery task asked for a retry that its own `max_retries` allows.

    Attributes:
        cause: Why.
        delay_ms: After which time.
    """

    def __init__(self, cause: BaseException, delay_ms: int) -> None:
        super().__init__(str(delay_ms))
        self.cause, self.delay_ms = cause, delay_ms


def cause_of(error: BaseException) -> BaseException:
    """What the tool itself raised."""
    return error.cause if isinstance(error, RetryRequested) else error


def event_of_value(value: Any, tool: Tool, task: Task, lease_id: str, limits: Limits) -> WorkerEvent:
    """The event for what a tool returned."""
    try:
        rendered = tool.render(value, limits)
    except LimitExceeded as error:
        return result_too_large(tool, lease_id, error)
    except NotJson as error:
        logger.exception("Tool %s returned no valid result (task %s)", tool.name, task_hash(task.task_id))
        message = f"The result of '{tool.name}' cannot be used: {error.reason}."
        return with_exception(_failed(lease_id, FailureKind.RESULT_INVALID, message), error, task.claims)
    return _completed(lease_id, rendered)


def event_of_error(error: BaseException, tool: Tool, task: Task, lease_id: str) -> WorkerEvent:
    """The event for an exception of a tool, unless it is the end of the attempt."""
    if isinstance(error, ToolError | InvalidArguments | ClientError) or is_sdk_object(error, SDK_TOOL_ERROR):
        sentence = valid_text(str(error))
        return _completed(lease_id, error_result(sentence), sentence)
    if isinstance(error, ProtocolError):
        return _author_failure(lease_id, error.code, error.message, error.data)
    if is_sdk_object(error, *SDK_PROTOCOL_ERRORS):
        return _sdk_failure(lease_id, error)
    if isinstance(error, ClientCannot):
        needs = JsonText(json.dumps({"needs": error.needs}))
        return _failed(lease_id, FailureKind.CLIENT_CANNOT, str(error), needs)
    if isinstance(error, HistoryMismatch):
        # Names of steps are an author's to choose, and may be made of arguments.
        logger.error("Task %s: %s", task_hash(task.task_id), shown(error, str))
        return _failed(lease_id, FailureKind.HISTORY, str(error))
    if isinstance(error, Unsupported):
        return _failed(lease_id, FailureKind.AUTHOR, str(error))
    if isinstance(error, RetryRequested):
        if tool.retry is not None:
            return event_of_error(error.cause, tool, task, lease_id)
        return _retry_as_asked(error, tool, task, lease_id)
    name = task_hash(task.task_id)
    expected = tool.exposed is not None and isinstance(error, tool.exposed.throws)
    logger.log(
        logging.INFO if expected else logging.ERROR,
        "Tool %s failed (task %s, claim %d)%s",
        tool.name,
        name,
        task.claims,
        f": {shown(error)}" if expected else "",
        exc_info=None if expected else error,
    )
    sentence = f"The tool '{tool.name}' failed. Its operator finds the reason under task {name}."
    failed = _soft_timed_out(error, tool, lease_id) or _completed(lease_id, error_result(sentence), sentence)
    if isinstance(error, StoreUnavailable):
        return Retry(lease_id=lease_id, delay_ms=STORE_RETRY_MS, otherwise=failed)
    if tool.retry is not None and tool.retry.applies_to(error):
        message = f"Attempt {task.attempts} failed; the tool runs again."
        delay_ms = tool.retry.delay_ms(task.attempts)
        return Retry(lease_id=lease_id, delay_ms=delay_ms, otherwise=failed, message=message)
    return failed


def _retry_as_asked(asked: RetryRequested, tool: Tool, task: Task, lease_id: str) -> Retry:
    name, delay = task_hash(task.task_id), asked.delay_ms / 1000
    logger.info("Tool %s runs again in %g s (task %s): %s", tool.name, delay, name, shown(asked.cause))
    message = f"The tool asked to run again in {delay:g} s."
    otherwise = _completed(lease_id, error_result(message), message)
    return Retry(
        lease_id=lease_id, delay_ms=asked.delay_ms, otherwise=otherwise, message=message, limited=False
    )


def _soft_timed_out(error: BaseException, tool: Tool, lease_id: str) -> FailWithError | None:
    limit = None if tool.exposed is None else tool.exposed.soft_time_limit
    if limit is None or not isinstance(error, SoftTimeLimitExceeded):
        return None
    return _failed(lease_id, FailureKind.TIMEOUT, f"The tool ran longer than its soft limit of {limit:g} s.")


def not_recordable(error: BaseException, tool: Tool, task: Task, lease_id: str) -> FailWithError:
    """The failure of a task whose outcome, of whatever kind, could not be made into an event or written."""
    name = task_hash(task.task_id)
    logger.error("The outcome of tool %s cannot be recorded (task %s)", tool.name, name, exc_info=error)
    message = (
        f"The tool '{tool.name}' ended, but its outcome cannot be recorded ({type(error).__name__}). "
        f"Its operator finds the reason under task {name}."
    )
    event = _failed(lease_id, FailureKind.RESULT_INVALID, valid_text(message))
    return with_exception(event, error, task.claims)


def result_too_large(tool: Tool, lease_id: str, error: LimitExceeded) -> FailWithError:
    """The failure of a task whose result is over a limit."""
    return _failed(lease_id, FailureKind.RESULT_LIMIT, f"The result of '{tool.name}' is too large: {error}.")


def timed_out(task: Task, lease_id: str) -> FailWithError:
    """The failure of a task whose attempt ran too long."""
    seconds = task.policy.timeout_ms / 1000
    return _failed(lease_id, FailureKind.TIMEOUT, f"The tool ran longer than its {seconds:g} s.")


def _completed(lease_id: str, rendered: Rendered, message: str | None = None) -> CompleteWithResult:
    return CompleteWithResult(
        lease_id=lease_id, result=rendered.result, is_error=rendered.is_error, message=message
    )


def _failed(lease_id: str, kind: FailureKind, message: str, data: JsonText | None = None) -> FailWithError:
    return FailWithError(lease_id=lease_id, failure=Failure(kind=kind, message=message, data=data))


def _sdk_failure(lease_id: str, error: Any) -> FailWithError:
    code, message, data = error.error.code, error.error.message, error.error.data
    if not is_authors_code(code):
        logger.warning("The code %s of an MCPError is not a tool's to use, and is left out", code)
        code = None
    return _author_failure(lease_id, code, valid_text(message), data)


def _author_failure(lease_id: str, code: int | None, message: str, data: Any) -> FailWithError:
    text: JsonText | None = None
    if data is not None:
        try:
            text = to_json("error data", data, maximum=Limits().variables_bytes)
        except (NotJson, LimitExceeded) as error:
            logger.warning("The data of a ProtocolError is left out: %s", error)
    failure = Failure(kind=FailureKind.AUTHOR, code=code, message=message, data=text)
    return FailWithError(lease_id=lease_id, failure=failure)
