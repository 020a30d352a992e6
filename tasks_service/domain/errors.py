"""The error catalogue: one class per way to fail, each with what a caller needs to act on it.

Two families stand apart. `TasksServiceError` is what callers of the service meet. `AttemptEnded` derives
from `BaseException`: it ends the attempt of a running tool, and an author's `except Exception` must not
swallow it.
"""

from __future__ import annotations

from typing import Any

from .names import task_hash


class TasksServiceError(Exception):
    """Everything that this service raises on purpose."""


class ConfigurationError(TasksServiceError):
    """The operator's set-up cannot work; the message says how to fix it."""


class NotJson(TasksServiceError):
    """A value cannot be written as strict JSON.

    Attributes:
        what: Which value: "arguments", "result".
        reason: Why not.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: not valid JSON: {reason}")
        self.what, self.reason = what, reason


class LimitExceeded(TasksServiceError):
    """Something is larger, deeper or more than allowed; nothing was recorded.

    Attributes:
        what: Which limit.
        maximum: What is allowed.
        actual: What was met.
        unit: Of both numbers.
    """

    def __init__(self, what: str, *, maximum: int, actual: int, unit: str) -> None:
        super().__init__(f"{what}: {actual} {unit}, at most {maximum} allowed")
        self.what, self.maximum, self.actual, self.unit = what, maximum, actual, unit


class QuotaExceeded(LimitExceeded):
    """There is as much of something as may be; retry when there is less.

    Attributes:
        setting: What the operator raises to allow more; empty if nothing does.
        until: What makes room, in a few words.
        retry_after_ms: When it is worth another try.
    """

    def __init__(
        self,
        what: str,
        *,
        maximum: int,
        actual: int,
        unit: str,
        setting: str = "",
        until: str = "some have ended",
        retry_after_ms: int = 5_000,
    ) -> None:
        super().__init__(what, maximum=maximum, actual=actual, unit=unit)
        self.args = (f"{self}, by {setting}" if setting else str(self),)
        self.setting, self.until, self.retry_after_ms = setting, until, retry_after_ms


class UnknownTool(TasksServiceError):
    """No tool of that name is registered."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown tool: {name}")
        self.name = name


class UnknownPrompt(TasksServiceError):
    """No prompt of that name is registered."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown prompt: {name}")
        self.name = name


class UnknownResource(TasksServiceError):
    """There is no resource of that URI.

    Attributes:
        uri: What was asked for.
        reason: Why not, where there is more to say; or empty.
    """

    def __init__(self, uri: str, reason: str = "") -> None:
        super().__init__(f"Resource not found: {reason or uri}")
        self.uri, self.reason = uri, reason


class InvalidArguments(TasksServiceError):
    """Arguments do not match the schema of what they are for; nothing was recorded.

    Attributes:
        tool: The name of the tool, or of what else they are for.
        problems: One (field path, what is wrong) for each problem.
    """

    def __init__(self, tool: str, problems: tuple[tuple[str, str], ...]) -> None:
        listed = "; ".join(f"{path}: {problem}" if path else problem for path, problem in problems)
        super().__init__(f"Invalid arguments for {tool}: {listed}")
        self.tool, self.problems = tool, problems


class TaskNotFound(TasksServiceError):
    """No such task for this owner: unknown, foreign, malformed and expired are one and the same."""

    def __init__(self, task_id: str) -> None:
        super().__init__("Task not found")
        self.task_id = task_id


class InvalidTransition(TasksServiceError):
    """The state machine refused an event; never retried, because the answer would be the same.

    Attributes:
        task_id: Which task.
        current: The phase that was met.
        attempted: The event that was refused.
        reason: Why, in a few words.
    """

    def __init__(self, task_id: str, current: str, attempted: str, reason: str) -> None:
        super().__init__(f"{attempted} refused: the task is {current} ({reason})")
        self.task_id, self.current, self.attempted, self.reason = task_id, current, attempted, reason


class LeaseLost(InvalidTransition):
    """The writer's lease is no longer the task's; `current` says what became of the task."""


class JournalRolledBack(InvalidTransition):
    """The record lacks entries that its writer has recorded: the store has gone back to an earlier truth.

    The lease stands; once the entries are recorded again, the same event may be committed.

    Attributes:
        kept: How many entries are left.
    """

    def __init__(self, task_id: str, current: str, attempted: str, *, kept: int) -> None:
        super().__init__(task_id, current, attempted, f"the journal ends at {kept}")
        self.kept = kept


class ConcurrencyLimitReached(InvalidTransition):
    """Every slot is taken that the task's owner has in its queue: see `Limits.running_per_owner`."""

    def __init__(self, task_id: str, current: str, attempted: str) -> None:
        super().__init__(task_id, current, attempted, "every slot of its owner is taken")


class IdempotencyConflict(TasksServiceError):
    """The idempotency key was used before, with another request."""

    def __init__(self) -> None:
        super().__init__("This idempotency key was already used with a different request")


class AnswerRefused(TasksServiceError):
    """An answer does not fit its question; nothing was recorded, and the question stays open.

    Attributes:
        key: The question's key.
        path: Where in the answer; empty for the whole.
        problem: What was expected.
    """

    def __init__(self, key: str, path: str, problem: str) -> None:
        where = f"{key}.{path}" if path else key
        super().__init__(f"The answer to {where} does not fit: {problem}")
        self.key, self.path, self.problem = key, path, problem


class HistoryMismatch(TasksServiceError):
    """What the tool does now does not fit what was recorded of it; its code has changed meanwhile.

    Attributes:
        index: Which entry of the journal, from 0.
        expected: What the tool did at this point now.
        found: What the journal says that it did.
    """

    def __init__(self, index: int, expected: str, found: str) -> None:
        super().__init__(
            f"The tool has changed since this task began: journal entry {index} is {found}, "
            f"but the tool now comes to {expected}"
        )
        self.index, self.expected, self.found = index, expected, found


class StoreUnavailable(TasksServiceError):
    """The store did not answer in time, or contention did not end; the outcome may be unknown.

    Attributes:
        token: The write token; repeating the call with it cannot apply the write twice.
        retry_after_ms: When it is sensible to come back.
    """

    def __init__(self, reason: str, *, token: str | None = None, retry_after_ms: int = 1_000) -> None:
        super().__init__(f"The task store is unavailable: {reason}")
        self.reason, self.token, self.retry_after_ms = reason, token, retry_after_ms


class ExecutionForgotten(StoreUnavailable):
    """The store no longer knows the execution that a call waits for: it went back to an earlier truth.

    It can be called again; the tool may have begun to run.
    """

    def __init__(self) -> None:
        super().__init__("it has forgotten the execution that a call waits for")


class StoreFull(StoreUnavailable):
    """The store's memory is short; nothing was recorded, and it can be tried again when there is more.

    Attributes:
        maximum: Percent of the memory up to which this is recorded; 100 at the very limit.
        actual: Percent that is used.
    """

    what = "memory of the task store"
    unit = "percent"

    def __init__(self, *, maximum: int = 100, actual: int = 100) -> None:
        short = f"{actual} percent of Redis's memory is used, and this is recorded below {maximum} only"
        super().__init__("Redis is out of memory" if maximum == 100 else short, retry_after_ms=5_000)
        self.maximum, self.actual = maximum, actual


class StoreForbidden(StoreUnavailable):
    """The process may not do with the store what was asked; it can be tried again when it may."""

    def __init__(self) -> None:
        super().__init__("Redis does not permit what this process does; its log says what")


class Contention(StoreUnavailable):
    """Too many writers on one task for too long; the store itself is well."""


class CorruptRecord(TasksServiceError):
    """A stored record cannot be read: written by another version of the service, or damaged."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(f"The record of task {task_hash(task_id)} cannot be read: {reason}")
        self.task_id, self.reason = task_id, reason


class RecordTooNew(CorruptRecord):
    """What is stored was written by a newer release, in a schema version that this one cannot read.

    Nothing is wrong with it, so nothing may be done to it. See docs/upgrading.md.
    """

    def __init__(self, task_id: str, version: int, newest: int) -> None:
        super().__init__(
            task_id,
            f"it has schema version {version}, and this release reads versions up to {newest}: "
            "roll out the newer release everywhere (docs/upgrading.md)",
        )
        self.version, self.newest = version, newest


class ToolError(Exception):
    """Raised by a tool's author: the sentence reaches the client as an `isError` result, and is not retried.

    Args:
        message: What went wrong, for the model and the person who called the tool.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ProtocolError(Exception):
    """Raised by an author to fail the task, or the request, with a JSON-RPC error of its own.

    Args:
        code: The JSON-RPC error code.
        message: A sentence for the caller.
        data: Anything that JSON can carry, or None.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        # Half a surrogate pair can neither be sent nor logged.
        self.code, self.message, self.data = code, message.encode(errors="replace").decode(), data
        super().__init__(self.message)


class ResourceNotFound(Exception):
    """Raised by an author's function that reads a resource: there is nothing under this URI.

    Args:
        reason: A sentence for the caller; may be empty.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class ClientCannot(Exception):
    """Raised in a tool that asks for something the client has not declared; uncaught, it fails the task.

    Attributes:
        needs: What the client would have to declare: `form`, `url`, `sampling` or `roots`.
    """

    def __init__(self, needs: str) -> None:
        super().__init__(f"The client did not declare that it can be asked for this: {needs}")
        self.needs = needs


class ClientError(Exception):
    """Raised in a tool whose question the client answered with an error.

    Attributes:
        code: The JSON-RPC error code.
        message: The client's message.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"The client answered with an error: {message}")
        self.code, self.message = code, message


class AttemptEnded(BaseException):
    """This attempt must stop now; not an `Exception`, so that no tool swallows it by accident."""


class TaskCancelled(AttemptEnded):
    """The client cancelled the task."""


class AttemptLost(AttemptEnded):
    """The lease went to another worker, or the task ended otherwise; nothing that runs on counts."""


class AttemptTimedOut(AttemptEnded):
    """The attempt ran past the tool's timeout."""


class Parked(AttemptEnded):
    """The task waits, for an answer or for a time; its tool runs again from the top when that has come."""


class WorkerStopping(AttemptEnded):
    """The worker process shuts down; the task is handed back and runs again elsewhere."""
