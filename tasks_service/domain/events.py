"""The events of the state machine: the complete list, each with the facts that the decision needs.

The base class says who sends an event: a `ClientEvent` needs the owner, a `WorkerEvent` proves by its lease
id that the worker still holds the task, a `SweepEvent` records what time has already decided, an
`OperatorEvent` is an operator's order. Every event has a write token: a repetition with the same token is
recognised, and never applied twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .task import (
    MINUTE,
    NOT_RECORDED,
    ClientCapability,
    Failure,
    Identity,
    InputRequest,
    JournalEntry,
    JsonText,
    Owner,
    Policy,
    Progress,
    ToolException,
    Wait,
    new_token,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events."""

    actor: ClassVar[str] = ""
    token: str = field(default_factory=new_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEvent(Event):
    """An event that the task's owner causes."""

    actor: ClassVar[str] = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent(Event):
    """An event that the holder of the lease causes.

    Attributes:
        journal_length: The number of journal entries that the writer knows; a record with fewer has lost
            recent writes.
    """

    actor: ClassVar[str] = "worker"
    lease_id: str
    journal_length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEvent(Event):
    """An event that time causes, and a sweep records."""

    actor: ClassVar[str] = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorEvent(Event):
    """An event that an operator causes, whoever owns the task."""

    actor: ClassVar[str] = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Event):
    """A call is recorded as a task, and cannot be lost from now on.

    Attributes:
        service: The name of the service whose tool is called.
        former_names: Names that it had before: a task of theirs is found under its idempotency key.
        waits: What it waits for, as far as whoever creates it knows.
        takes_turns: See `Task.takes_turns`.
        idempotency: Hash of the owner's idempotency key, or empty.
        reconnect_ms: How long after its end it is kept while nobody has its handle.
        resumable_ms: For how long the `requestState` that led to this call is good, so that its repetition
            must find the same task; 0 if there was none.
        request_digest: Hash of the request, to tell a repetition from another request with the same key.
        journal: The answers that were given before the task existed.
        parent: The name of the task whose tool submits this one; empty if none does.
        caller: Who calls, for the tool.
    """

    actor: ClassVar[str] = "client"
    task_id: str
    owner: Owner
    tool: str
    queue: str
    arguments: JsonText
    policy: Policy = field(default_factory=Policy)
    era: str = ""
    capabilities: frozenset[ClientCapability] = frozenset()
    trace: str = ""
    service: str = ""
    former_names: frozenset[str] = frozenset()
    waits: Wait = Wait.QUEUED
    takes_turns: bool = False
    visible: bool = True
    reconnect_ms: int = 10 * MINUTE
    resumable_ms: int = 0
    idempotency: str = ""
    request_digest: str = ""
    journal: tuple[JournalEntry, ...] = ()
    parent: str = ""
    caller: Identity = NOT_RECORDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(ClientEvent):
    """The owner cancels the task.

    Attributes:
        reason: The status message.
        unheld: Cancel only if nobody was given the task's handle; for a caller that waited and has gone.
    """

    reason: str = "The client cancelled the task."
    unheld: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelByOperator(OperatorEvent):
    """An operator cancels the task.

    Attributes:
        reason: The status message, which clients read.
    """

    reason: str = "An operator cancelled the task."


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerInput(ClientEvent):
    """Answers to open questions; unknown and answered keys are ignored.

    Attributes:
        answers: The answers by key, already checked against their questions.
    """

    answers: Mapping[str, JsonText]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeVisible(ClientEvent):
    """The client is about to be given the handle of a task that was created hidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLeft(ClientEvent):
    """The caller of a task without a handle has lost its connection, and may come back.

    Attributes:
        within_ms: How long it may take to come back; then the task is cancelled. A later `CallerLeft` sets a
            new time. The task is kept for that long, even if it ends meanwhile.
    """

    within_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerReturned(ClientEvent):
    """The caller waits for the task again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Event):
    """A worker takes a pending task.

    Attributes:
        lease_id: A random id, drawn for this delivery.
        worker: The worker's name, for people.
        dispatched_ms: When the message was made; older messages of the queue are overtaken.
        services: The names, present and former, of the service whose tool the worker would run. Empty: not
            known.
    """

    actor: ClassVar[str] = "worker"
    lease_id: str
    worker: str
    dispatched_ms: int = 0
    services: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew(WorkerEvent):
    """The holder renews its lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(WorkerEvent):
    """The holder records something without changing the task's phase.

    Attributes:
        variables: JSON texts by name; `None` deletes the variable.
        progress: The progress of the tool.
        step: A journal entry.
        step_index: The entry's index in the journal; a repetition at the same index is recognised.
    """

    variables: Mapping[str, JsonText | None] = field(default_factory=dict)
    progress: Progress | None = None
    step: JournalEntry | None = None
    step_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInput(WorkerEvent):
    """The tool asks: the attempt ends, and the task is parked until it is answered.

    Attributes:
        inputs: The questions by key.
    """

    inputs: Mapping[str, Question]
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as the tool asks it.

    Attributes:
        request: The question, as JSON text: see `questions`.
        open_ms: How long it stays open; None: as long as the policy says.
        default: The answer if none comes in time; None: the task fails.
        digest: See `InputRequest.digest`.
    """

    request: JsonText
    open_ms: int | None = None
    default: JsonText | None = None
    digest: str = ""

    def opened(self, now_ms: int, policy: Policy, latest_ms: int) -> InputRequest:
        """The open question that the record holds if this is asked at `now_ms`."""
        open_ms = policy.question_ms if self.open_ms is None else self.open_ms
        return InputRequest(
            request=self.request,
            deadline_ms=min(now_ms + open_ms, latest_ms),
            default=self.default,
            digest=self.digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep(WorkerEvent):
    """The tool sleeps: the attempt ends, and the task is due again later.

    Attributes:
        delay_ms: The time until then.
        timer: The journal entry that lets the next attempt go on after the sleep.
    """

    delay_ms: int
    timer: JournalEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteWithResult(WorkerEvent):
    """The tool returned; status and result are one write.

    Attributes:
        result: The result, as JSON text.
        is_error: Whether the result reports an error; wire modules translate it.
        message: A sentence for people, shown beside the status.
        exception: The exception that the result reports, for operators.
    """

    result: JsonText
    is_error: bool = False
    message: str | None = None
    exception: ToolException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailWithError(WorkerEvent):
    """The task cannot be done; status and error are one write.

    Attributes:
        failure: The error, for whoever called the tool.
        exception: What was raised, for operators.
    """

    failure: Failure
    exception: ToolException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(WorkerEvent):
    """The attempt failed in a way that the tool's policy retries.

    Attributes:
        delay_ms: The time until the next attempt.
        otherwise: How the task ends if no attempt is left: with the tool's own error.
        message: What went wrong this time, for people.
        exception: What was raised this time, for operators.
        limited: Whether `max_attempts` applies. False where the tool counts its own retries, as an exposed
            Celery task does against its `max_retries`: that it decided so is sure progress.
    """

    delay_ms: int
    otherwise: CompleteWithResult | FailWithError
    message: str | None = None
    exception: ToolException | None = None
    limited: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(WorkerEvent):
    """The holder hands the task back.

    Attributes:
        lost: False if the worker stops: the attempt does not count. True if the parent reports a dead child:
            the attempt counts, so that a tool that kills its workers fails in the end.
        reason: For people.
    """

    lost: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reap(SweepEvent):
    """The lease has expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed(SweepEvent):
    """The deadline of the phase has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire(SweepEvent):
    """The task is final and its retention is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redispatch(SweepEvent):
    """The task's message seems lost, or a worker has dropped it; another one goes out in the same write.

    Attributes:
        dropped_ms: When the message was made that a worker has dropped, because it lacks the tool; 0: it only
            seems lost. A message that is known to be lost is replaced at once.
    """

    dropped_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainWait(SweepEvent):
    """It was found what a pending task waits for, and its status message says it from now on.

    Attributes:
        waits: For what.
        sends: Whether a message goes out in the same write, because those before were dropped.
    """

    waits: Wait
    sends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSlot(SweepEvent):
    """The task gets a slot that it has waited for, and a message goes out in the same write.

    Sent by the process that has just freed a slot, and by sweeps in case that process died.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord(Event):
    """A repair has found an inconsistent record.

    The attributes are facts about the record that a `Task` does not hold; the store reads them in the same
    transaction.

    Attributes:
        result_present: Whether a result is stored.
        journal_kept: The number of journal entries that can be read, from the first without a gap.
        journal_bytes_kept: The size of their values.
    """

    actor: ClassVar[str] = "repair"
    result_present: bool
    journal_kept: int
    journal_bytes_kept: int
