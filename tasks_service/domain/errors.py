"""The error catalogue: one class per kind of failure, with the facts that a caller needs to act on it.

There are two families. Callers of the service meet `TasksServiceError`. `AttemptEnded` ends the attempt of a
running tool; it derives from `BaseException`, so that an author's `except Exception` does not swallow it.
"""

from __future__ import annotations

from typing import Any

from .names import task_hash


class TasksServiceError(Exception):
    """The base of the errors that this service raises on purpose."""


class ConfigurationError(TasksServiceError):
    """The configuration, or an author's declaration, cannot work; the message says how to fix it."""


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
    """A size, depth or number is over its limit; nothing was recorded.

    Attributes:
        what: The name of the limit.
        maximum: The allowed maximum.
        actual: The actual value.
        unit: The unit of both.
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
        uri: The requested URI.
        reason: Why there is none, if more can be said; otherwise empty.
    """

    def __init__(self, uri: str, reason: str = "") -> None:
        super().__init__(f"Resource not found: {reason or uri}")
        self.uri, self.reason = uri, reason


class InvalidArguments(TasksServiceError):
    """Arguments do not match their schema; nothing was recorded.

    Attributes:
        tool: The name of the tool, prompt or resource.
        problems: One (field path, what is wrong) for each problem.
    """

    def __init__(self, tool: str, problems: tuple[tuple[str, str], ...]) -> None:
        listed = "; ".join(f"{path}: {problem}" if path else problem for path, problem in problems)
        super().__init__(f"Invalid arguments for {tool}: {listed}")
        self.tool, self.problems = tool, problems


class TaskNotFound(TasksServiceError):
    """No such task for this owner; unknown, foreign, malformed and expired ids are not told apart."""

    def __init__(self, task_id: str) -> None:
        super().__init__("Task not found")
        self.task_id = task_id


class InvalidTransition(TasksServiceError):
    """The state machine refused an event; never retried, because the decision would be the same.

    Attributes:
        task_id: The task.
        current: The task's phase.
        attempted: The event that was refused.
        reason: Why, in a few words.
    """

    def __init__(self, task_id: str, current: str, attempted: str, reason: str) -> None:
        super().__init__(f"{attempted} refused: the task is {current} ({reason})")
        self.task_id, self.current, self.attempted, self.reason = task_id, current, attempted, reason


class LeaseLost(InvalidTransition):
    """The writer's lease is no longer the task's; `current` says what became of the task."""


class OfAnotherService(InvalidTransition):
    """A worker would run a tool of its own service for a task of another service that has one of that name.

    Attributes:
        service: The name of the task's service.
        queue: The queue of the task.
    """

    def __init__(self, task_id: str, current: str, attempted: str, *, service: str, queue: str) -> None:
        super().__init__(task_id, current, attempted, f"of the service {service!r}")
        self.service, self.queue = service, queue


class JournalRolledBack(InvalidTransition):
    """The record lacks journal entries that the writer has recorded: the store has lost recent writes.

    The lease is still valid; once the entries are recorded again, the same event may be committed.

    Attributes:
        kept: The number of entries that are left.
    """

    def __init__(self, task_id: str, current: str, attempted: str, *, kept: int) -> None:
        super().__init__(task_id, current, attempted, f"the journal ends at {kept}")
        self.kept = kept


class ConcurrencyLimitReached(InvalidTransition):
    """All slots of the task's owner in its queue are taken (see `Limits.running_per_owner`)."""

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
    """The tool's calls do not match its journal: its code has changed since the task began.

    Attributes:
        index: The index of the journal entry, from 0.
        expected: The call that the tool makes now.
        found: The call that the journal has.
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
        retry_after_ms: Milliseconds after which to try again.
        may_have_applied: Whether a write was sent whose answer has not come; if not, nothing was recorded.
    """

    def __init__(
        self,
        reason: str,
        *,
        token: str | None = None,
        retry_after_ms: int = 1_000,
        may_have_applied: bool = False,
    ) -> None:
        super().__init__(f"The task store is unavailable: {reason}")
        self.reason, self.token, self.retry_after_ms = reason, token, retry_after_ms
        self.may_have_applied = may_have_applied

    @property
    def for_operators(self) -> str:
        """What happened, and what an operator does about it where that is known; clients are told less."""
        return str(self)


class Overloaded(StoreUnavailable):
    """This process has more to ask of the store than it can; the store works, and nothing was recorded."""

    def __init__(self) -> None:
        super().__init__("this process has more to ask of it than it can: start another, or raise TASKS_POOL")


class ExecutionForgotten(StoreUnavailable):
    """The store no longer has the execution that a call waits for: it has lost recent writes.

    The call can be made again; the tool may have begun to run.
    """

    def __init__(self) -> None:
        super().__init__("it has forgotten the execution that a call waits for")


class StoreFull(StoreUnavailable):
    """The store is short of memory; nothing was recorded, and it can be retried when there is more.

    Attributes:
        maximum: Percent of memory use up to which this is recorded; 100 if Redis itself refused.
        actual: Percent of memory in use.
    """

    what = "memory of the task store"
    unit = "percent"

    def __init__(self, *, maximum: int = 100, actual: int = 100) -> None:
        short = f"{actual} percent of Redis's memory is used, and this is recorded below {maximum} only"
        super().__init__("Redis is out of memory" if maximum == 100 else short, retry_after_ms=5_000)
        self.maximum, self.actual = maximum, actual


class StoreRefuses(StoreUnavailable):
    """The store is there and takes no work, mostly until an operator has acted.

    Attributes:
        told: Why, without what only operators may know: the end of a sentence about the task store.
        remedy: What an operator does about it, as a sentence.
    """

    def __init__(
        self, reason: str, *, told: str, remedy: str, token: str | None = None, may_have_applied: bool = False
    ) -> None:
        super().__init__(reason, token=token, retry_after_ms=5_000, may_have_applied=may_have_applied)
        self.told, self.remedy = told, remedy

    @property
    def for_operators(self) -> str:
        """See `StoreUnavailable.for_operators`."""
        return f"{str(self).rstrip('.')}. {self.remedy}"


class StoreForbidden(StoreRefuses):
    """Redis does not permit this process a command; it can be retried when the permission is given."""

    def __init__(self) -> None:
        super().__init__(
            "Redis does not permit what this process does; its log says what",
            told="does not permit what this service does",
            remedy="Give the Redis user what docker/users.acl has.",
        )


class StoreDamaged(StoreRefuses):
    """A key by which tasks are counted cannot be read, so that no limit can be kept to.

    Args:
        key: The key.
        reason: Why.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f"{key} is damaged ({reason}), so that tasks cannot be counted",
            told="is damaged where tasks are counted, and takes no new ones",
            remedy="Run tasks-service repair.",
        )


class Contention(StoreUnavailable):
    """Too many writers changed one task for too long; the store itself works."""


class CorruptRecord(TasksServiceError):
    """A stored record cannot be read: another version of the service wrote it, or it is damaged."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(f"The record of task {task_hash(task_id)} cannot be read: {reason}")
        self.task_id, self.reason = task_id, reason


class UnreadableHere(CorruptRecord):
    """This process cannot read a stored record. Nothing is wrong with it, so nothing may be done to it."""


class RecordTooNew(UnreadableHere):
    """What is stored was written by a newer release, in a schema version that this one cannot read.

    See docs/upgrading.md.
    """

    def __init__(self, task_id: str, version: int, newest: int) -> None:
        super().__init__(
            task_id,
            f"it has schema version {version}, and this release reads versions up to {newest}: "
            "roll out the newer release everywhere (docs/upgrading.md)",
        )
        self.version, self.newest = version, newest


class RecordSealed(UnreadableHere):
    """A part of a record is encrypted under a key that is not there, or is not encrypted, and must be.

    See docs/security.md, "Secrets at rest".
    """


class TaskFailed(TasksServiceError):
    """A task that was submitted has failed, or its result reports an error.

    Attributes:
        message: What its caller may know; the exception itself is in the record, for operators.
        kind: Why, as in `timeout` or `attempts` (see docs/guarantees.md); None: its tool raised an exception.
        code: The code of an author's `ProtocolError`, or None.
        data: The data of an author's `ProtocolError`.
    """

    def __init__(
        self, message: str, *, kind: str | None = None, code: int | None = None, data: Any = None
    ) -> None:
        super().__init__(message)
        self.message, self.kind, self.code, self.data = message, kind, code, data


class TaskWasCancelled(TasksServiceError):
    """A task that was submitted was cancelled, so that it has no result.

    Attributes:
        reason: What its status message says; None: nothing.
    """

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason or "The task was cancelled.")
        self.reason = reason


class ToolError(Exception):
    """An author's error for the caller: the client gets the message as an `isError` result; never retried.

    Args:
        message: What went wrong, for the model and the person who called the tool.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


INVALID_PARAMS, INTERNAL_ERROR = -32602, -32603
"""The codes within the reserved range that an author may use."""

RESERVED_CODES = range(-32768, -31999)
"""The codes that JSON-RPC and MCP keep for themselves."""

LARGEST_CODE = 2**53 - 1
"""The largest integer that every JSON parser reads exactly."""


def is_authors_code(code: object) -> bool:
    """Whether an author's error may have this JSON-RPC code (2026-07-28, basic, "error codes")."""
    if not isinstance(code, int) or isinstance(code, bool) or abs(code) > LARGEST_CODE:
        return False
    return code not in RESERVED_CODES or code in (INVALID_PARAMS, INTERNAL_ERROR)


class ProtocolError(Exception):
    """An author's error that fails the task, or the request, with a JSON-RPC error.

    Args:
        code: The JSON-RPC error code: an integer outside of -32768 to -32000, which JSON-RPC and MCP keep
            for themselves; of those, -32602 (invalid params) and -32603 (internal error) may be used.
        message: A sentence for the caller.
        data: Any JSON value, or None.

    Raises:
        ValueError: The code is none of these.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        if not is_authors_code(code):
            raise ValueError(
                f"ProtocolError: code {code!r}: expected an integer outside of -32768 to -32000, which "
                "JSON-RPC and MCP keep for themselves, such as 4001; of those, -32602 (invalid params) and "
                "-32603 (internal error) may be used"
            )
        # Half a surrogate pair can neither be sent nor logged.
        self.code, self.message, self.data = code, str(message).encode(errors="replace").decode(), data
        super().__init__(self.message)


class ResourceNotFound(Exception):
    """An error for functions of resource templates: there is nothing under this URI.

    Args:
        reason: A sentence for the caller; may be empty.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class ClientCannot(Exception):
    """A tool asks for something that the client did not declare; uncaught, it fails the task.

    Attributes:
        needs: The missing capability: `form`, `url`, `sampling` or `roots`.
    """

    def __init__(self, needs: str) -> None:
        super().__init__(f"The client did not declare that it can be asked for this: {needs}")
        self.needs = needs


class ClientError(Exception):
    """The client answered a tool's question with an error.

    Attributes:
        code: The JSON-RPC error code.
        message: The client's message.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"The client answered with an error: {message}")
        self.code, self.message = code, message


class AttemptEnded(BaseException):
    """The base of the reasons why an attempt must stop; not an `Exception`, so that no tool swallows it."""


class TaskCancelled(AttemptEnded):
    """The task was cancelled, by its client or by an operator."""


class AttemptLost(AttemptEnded):
    """The task went to another worker, or ended otherwise; this attempt's writes are refused from now on."""


class AttemptTimedOut(AttemptEnded):
    """The attempt ran past the tool's timeout."""


class Parked(AttemptEnded):
    """The task waits for an answer or a time; its tool then runs again from the top."""


class WorkerStopping(AttemptEnded):
    """The worker process shuts down; the task is handed back and runs again elsewhere."""
