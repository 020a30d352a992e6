"""What can happen to a task: the complete list, each event with the facts that the decision needs.

Who sends which is fixed by its base class: a `ClientEvent` needs the owner, a `WorkerEvent` proves by its
lease id that it still holds the task, a `SweepEvent` only makes durable what time has already decided.
Every event has a write token: a repetition with the same token is recognised, never applied twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .task import (
    MINUTE,
    NO_TEXT,
    Failure,
    InputRequest,
    JournalEntry,
    JsonText,
    Owner,
    Policy,
    Progress,
    new_token,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Anything that can happen to a task."""

    actor: ClassVar[str] = ""
    token: str = field(default_factory=new_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEvent(Event):
    """An event that an owner causes."""

    actor: ClassVar[str] = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent(Event):
    """An event that the holder of the lease causes.

    Attributes:
        journal_length: Entries of the journal that the writer builds upon; a record that has fewer has gone
            back to an earlier truth.
    """

    actor: ClassVar[str] = "worker"
    lease_id: str
    journal_length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEvent(Event):
    """An event that time has caused; a sweep writes it down."""

    actor: ClassVar[str] = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Event):
    """A call is recorded; from here on it cannot be lost.

    Attributes:
        idempotency: Hash of the owner's idempotency key, or empty.
        reconnect_ms: How long after its end it is kept while nobody has its handle.
        resumable_ms: For how long the `requestState` that led to this call is good, so that its repetition
            must find the same task; 0 if there was none.
        request_digest: Hash of the request, to tell a repetition from a clash of keys.
        journal: Answers given before the task existed.
    """

    actor: ClassVar[str] = "client"
    task_id: str
    owner: Owner
    tool: str
    queue: str
    arguments: JsonText
    policy: Policy = field(default_factory=Policy)
    era: str = ""
    capabilities: JsonText = NO_TEXT
    trace: str = ""
    visible: bool = True
    reconnect_ms: int = 10 * MINUTE
    resumable_ms: int = 0
    idempotency: str = ""
    request_digest: str = ""
    journal: tuple[JournalEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(ClientEvent):
    """The owner wants it to stop.

    Attributes:
        reason: For the status message.
        unheld: Only if nobody was given its handle: whoever waited for it has gone.
    """

    reason: str = "The client cancelled the task."
    unheld: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerInput(ClientEvent):
    """Answers to open questions; unknown and answered keys are ignored.

    Attributes:
        answers: Key to answer, already checked against the question.
    """

    answers: Mapping[str, JsonText]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeVisible(ClientEvent):
    """The handle of a task that was created hidden is about to be given out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLeft(ClientEvent):
    """Whoever waited for a task without a handle has left, and may come back.

    Attributes:
        within_ms: How long that may take; then the task is cancelled. A later `CallerLeft` sets a new time.
            For as long the task is kept, even if it ends meanwhile.
    """

    within_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerReturned(ClientEvent):
    """Somebody waits for the task again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Event):
    """A worker takes a pending task.

    Attributes:
        lease_id: Drawn for this delivery.
        worker: The worker's name, for people.
        dispatched_ms: From the message: what was overtaken by this claim.
    """

    actor: ClassVar[str] = "worker"
    lease_id: str
    worker: str
    dispatched_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew(WorkerEvent):
    """The holder is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(WorkerEvent):
    """The holder writes something down without moving the task.

    Attributes:
        variables: Name to JSON text; `None` deletes the variable.
        progress: How far it is.
        step: A journal entry, with the index that it must get.
        step_index: Position in the journal; a repetition at the same position is recognised.
    """

    variables: Mapping[str, JsonText | None] = field(default_factory=dict)
    progress: Progress | None = None
    step: JournalEntry | None = None
    step_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInput(WorkerEvent):
    """The tool asks; the attempt ends and nothing is held while the task waits.

    Attributes:
        inputs: Key to question.
    """

    inputs: Mapping[str, Question]
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as the tool asks it.

    Attributes:
        request: What is asked, as JSON text.
        open_ms: How long it stays open; None for as long as the policy says.
        default: The answer that silence gives; None: silence fails the task.
        digest: See `InputRequest.digest`.
    """

    request: JsonText
    open_ms: int | None = None
    default: JsonText | None = None
    digest: str = ""

    def opened(self, now_ms: int, policy: Policy, latest_ms: int) -> InputRequest:
        """The open question that it becomes when asked at `now_ms`."""
        open_ms = policy.question_ms if self.open_ms is None else self.open_ms
        return InputRequest(
            request=self.request,
            deadline_ms=min(now_ms + open_ms, latest_ms),
            default=self.default,
            digest=self.digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep(WorkerEvent):
    """A durable timer: the attempt ends, the task comes due again later.

    Attributes:
        delay_ms: From now.
        timer: The journal entry that lets the next attempt pass.
    """

    delay_ms: int
    timer: JournalEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteWithResult(WorkerEvent):
    """The tool returned; status and result are one write.

    Attributes:
        result: The result, as JSON text.
        is_error: Whether the tool reported an error in it; wire modules know what that means.
        message: A sentence for people, shown beside the status.
    """

    result: JsonText
    is_error: bool = False
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailWithError(WorkerEvent):
    """The task cannot be done; status and error are one write."""

    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(WorkerEvent):
    """The attempt failed in a way that the tool's policy retries.

    Attributes:
        delay_ms: Until the next attempt.
        otherwise: How the task ends if no attempt is left: the tool's own error.
        message: What went wrong this time, for people.
    """

    delay_ms: int
    otherwise: CompleteWithResult | FailWithError
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(WorkerEvent):
    """The holder hands the task back.

    Attributes:
        lost: False for a graceful hand-back, which gives the try back; True for a dead child seen by its
            parent, which keeps it, so that poison is counted.
        reason: For people.
    """

    lost: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reap(SweepEvent):
    """The lease ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed(SweepEvent):
    """The deadline of the phase has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire(SweepEvent):
    """The task is final and past its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redispatch(SweepEvent):
    """The task's message seems lost; another one goes out in the same write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSlot(SweepEvent):
    """The task's turn has come: it gets a slot, and a message goes out in the same write.

    Sent by whoever has just given a slot back, and by a sweep in case that one died.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord(Event):
    """A repair has found that the record contradicts itself.

    What no rule of ours reads, and so no `Task` holds, comes along as evidence; the store gathers it in the
    same transaction.

    Attributes:
        result_present: Whether a result is stored.
        journal_kept: How many journal entries can be read, from the first on without a gap.
        journal_bytes_kept: The size of their values.
    """

    actor: ClassVar[str] = "repair"
    result_present: bool
    journal_kept: int
    journal_bytes_kept: int
