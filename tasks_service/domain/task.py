"""What a task is: the record that the state machine moves, and the pieces that it is made of.

Everything here is immutable. Times are milliseconds since the epoch, read from the store's clock
(Redis TIME), never from a host's. Payloads (arguments, results, variables, answers) are JSON *text*:
the domain measures and keeps them, and leaves their meaning to those who wrote them.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, NewType

from .scopes import is_granted

Owner = NewType("Owner", str)
"""Whose task it is: a keyed hash of a principal, so that neither keys nor logs hold a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who has called, as whoever authenticated the call names them.

    Recorded with the task, for its tool; an `Owner` tells whose tasks are whose. Neither holds what the
    caller has proved itself by.

    Attributes:
        issuer: Who vouches: `local`, `api-key`, `python` for what a program has submitted, or an
            authorization server. Empty if it was not recorded: the task is of an older release.
        subject: Whom they vouch for: a user, or the name of an API key.
        client_id: The client that they use; empty where none is named.
        scopes: What its token allows; None for a caller that no scopes limit.
        claims: Further claims of its token, those that the settings name.
    """

    issuer: str
    subject: str
    client_id: str = ""
    scopes: tuple[str, ...] | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)

    def has_scope(self, scope: str) -> bool:
        """Whether the caller has a scope, or a broader one, or is limited by none."""
        return self.scopes is None or is_granted(scope, self.scopes)


NOT_RECORDED = Identity(issuer="", subject="", scopes=())
"""The identity where a record has none: of an older release, or lost. It is allowed nothing."""

JsonText = NewType("JsonText", str)
"""A JSON document as text, already checked to be strict JSON."""

NO_TEXT = JsonText("")

Unknown = tuple[tuple[str, JsonText], ...]
"""What a newer release has stored in an object and this one has no name for: stored names and JSON values.

It belongs to its object: no rule looks at it, and it is written back with the object as it was read.
"""

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

TOKEN_BYTES = 16
"""Random bytes in a write token or a lease id: 128 bits, so that equality alone is a proof."""


def new_token() -> str:
    """Draw a fresh 128-bit random name, for a write token or a lease id."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class TaskStatus(StrEnum):
    """The status as every MCP revision knows it; the last three are final."""

    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no event leads out of it (only expiry, which removes the task)."""
        return self in _FINAL


_FINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class Phase(StrEnum):
    """Where in its life a task is; `working` covers two phases, told apart by the lease."""

    PENDING = "pending"
    RUNNING = "running"
    PARKED = "parked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_PHASE_OF_STATUS = {
    TaskStatus.INPUT_REQUIRED: Phase.PARKED,
    TaskStatus.COMPLETED: Phase.COMPLETED,
    TaskStatus.FAILED: Phase.FAILED,
    TaskStatus.CANCELLED: Phase.CANCELLED,
}


class ConcurrencyKey(NamedTuple):
    """Where tasks of one owner wait for each other, and for nobody else's: the owner's share of one queue."""

    owner: Owner
    queue: str


class ClientCapability(StrEnum):
    """What a client can be asked; wire modules know how it declares that."""

    FORM = "form"
    """Some values, of its user."""
    URL = "url"
    """To send its user to a page."""
    SAMPLING = "sampling"
    """A completion by its model."""
    ROOTS = "roots"
    MODEL = "model"
    """What an author lets models answer: its model is told of the companion tools."""

    @classmethod
    def of(cls, names: Collection[str]) -> frozenset[ClientCapability]:
        """Those of a list of names; what only another version knows is passed over."""
        return frozenset(capability for capability in cls if capability in names)


class Slot(StrEnum):
    """Whether a task has one of the slots of its concurrency key, where their number is limited.

    It is limited by `Limits.concurrency_limit`, or while owners take turns (`Task.takes_turns`).
    """

    WAITING = "waiting"
    """Pending, and every slot was taken when it needed one: no message goes out until it is granted one."""
    HELD = "held"
    """It has a slot: it runs, or a message that makes it run is on the way."""


class Wait(StrEnum):
    """What a pending task waits for, as its status message says it."""

    QUEUED = "queued"
    """For a worker that has the tool and takes its queue: there is one."""
    SLOT = "slot"
    """For another task of its owner to end, or for its turn: its owner has as many running as it may."""
    NO_WORKER = "no_worker"
    """For a worker: none takes its queue and has its tool, and none of the others would get its message."""
    NO_TOOL = "no_tool"
    """For a worker that has the tool: those that take its queue have it not, and drop its message."""
    REMOVED = "removed"
    """As `NO_TOOL`, and workers of its service had the tool before: it was taken away."""


class FailureKind(StrEnum):
    """Why a task is `failed`. Wire modules turn a kind into their error code."""

    AUTHOR = "author"
    """The tool raised a protocol error of its own; its code is in the failure."""
    QUEUE_TIMEOUT = "queue_timeout"
    """No worker that has the tool took it in time."""
    TIMEOUT = "timeout"
    """An attempt ran past the tool's timeout."""
    ATTEMPTS = "attempts"
    """Its workers were lost as often as the tool's `max_attempts` allows."""
    QUESTION = "question"
    """A question was not answered in time and had no default."""
    RESULT_LIMIT = "result_limit"
    """The result is larger than the limit."""
    RESULT_INVALID = "result_invalid"
    """The result is not serialisable, or violates the tool's output schema."""
    CLIENT_CANNOT = "client_cannot"
    """The tool needs something of the client that the client has not declared."""
    HISTORY = "history"
    """The recorded journal does not fit the tool that runs now."""
    DAMAGED = "damaged"
    """A part of the record was lost in the store; a repair has found it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error that a `failed` task carries.

    Attributes:
        kind: Why, in the service's own terms.
        message: A sentence for whoever called the tool; no internals.
        code: The author's own JSON-RPC error code (`FailureKind.AUTHOR` only).
        data: The author's own error data, as JSON text.
    """

    kind: FailureKind
    message: str
    code: int | None = None
    data: JsonText | None = None
    unknown: Unknown = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the tool's author asked for, recorded with the task so that no rule needs the tool again.

    Attributes:
        ttl_ms: Kept at least this long from creation, if its handle was given out.
        retention_ms: Kept at least this long after it ended, if its handle was given out.
        queue_timeout_ms: How long it may be pending before it fails.
        timeout_ms: How long one attempt may run.
        question_ms: How long a question may stay open, unless the question says otherwise.
        max_lifetime_ms: Its whole life, from creation; no deadline and no extension goes beyond.
        lease_ms: How long a silent worker is believed.
        max_attempts: Attempts since the last sure progress before it fails.
        poll_interval_ms: What clients are asked to wait between two polls, at first.
        max_poll_interval_ms: And at most, the longer the task has not moved; see `decide.poll_interval_ms`.
    """

    ttl_ms: int = HOUR
    retention_ms: int = HOUR
    queue_timeout_ms: int = DAY
    timeout_ms: int = DAY
    question_ms: int = 7 * DAY
    max_lifetime_ms: int = 30 * DAY
    lease_ms: int = 10 * SECOND
    max_attempts: int = 3
    poll_interval_ms: int = SECOND
    max_poll_interval_ms: int = 10 * SECOND
    unknown: Unknown = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who runs the task now.

    Attributes:
        lease_id: 128 random bits; a writer proves by *equality* that the task is still its own.
        until_ms: When a silent holder is given up.
        worker: The holder's name, for people.
    """

    lease_id: str
    until_ms: int
    worker: str
    unknown: Unknown = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running tool says it is."""

    current: float
    total: float | None = None
    message: str | None = None
    unknown: Unknown = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequest:
    """A question that is open.

    Attributes:
        request: What the client is asked, as JSON text: see `questions`.
        deadline_ms: When it stops being answerable.
        default: The answer that silence gives, if the author named one.
        digest: Goes with the answer into the journal, so that a changed question is noticed.
    """

    request: JsonText
    deadline_ms: int
    default: JsonText | None = None
    digest: str = ""
    unknown: Unknown = ()


class EntryKind(StrEnum):
    """What a journal entry records."""

    STEP = "step"
    ANSWER = "answer"
    TIMER = "timer"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """Something that happened once in the tool and must not happen again.

    Attributes:
        kind: Step, answer or timer.
        name: The step's or the question's name.
        digest: Hash of the schema or the arguments, so that a changed tool is noticed.
        value: What it returned, as JSON text.
    """

    kind: EntryKind
    name: str
    digest: str
    value: JsonText


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolException:
    """The newest exception that ended an attempt of a task. For operators: no client is ever shown it.

    Attributes:
        type: The name of its class, with its module.
        message: What it says.
        traceback: The traceback, from the tool's own code on; in the middle of a long one a part is left out.
        claim: Which claim's attempt it ended.
    """

    type: str
    message: str = ""
    traceback: str = ""
    claim: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One line of a task's transition log: audit trail, deduplication, and witness for tests."""

    revision: int
    source: Phase | None
    target: Phase
    token: str
    actor: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Everything that a decision about a task depends on.

    Arguments, result and journal are not here: no rule reads them, so no transition has to load
    them. `TaskRecord` has them all.

    Attributes:
        service: The service whose tool it is; empty if a release recorded it that knew of one only.
        waits: What `status_message` says that it waits for; None if it says something else, or nothing.
        claims: Counts every claim; orders and names dispatches.
        attempts: Attempts since the last sure progress; only this meets `max_attempts`.
        retries: How often an attempt ended with a retry; what an exposed Celery task sees as its own.
        revision: Counts logged transitions, from 0.
        updated_ms: When the task last moved; reads and renewals leave it alone.
        due_ms: While pending, when it may be claimed.
        deadline_ms: When the present phase is overdue; the end itself for a final phase.
        expires_ms: When a final task goes, fixed when it ends; 0 before.
        as_of_ms: The moment it was read or moved, of which this is its state; 0 where nobody asks what time
            has made of it. Not stored.
        dispatched_ms: When its last message was made; lets a sweep see that it was overtaken.
        visible: Whether its handle was ever given out.
        return_by_ms: When it is cancelled unless its caller has come back; 0 while nobody has left.
        resumable_until_ms: Until when what its caller was given instead of a handle (a `requestState`, a
            place in a stream) leads back to it; 0 if nothing was.
        reconnect_ms: How long after its end it is kept for a caller without a handle.
        slot: Whether it has a slot or waits for one; None while it needs none, or where there is no limit.
        takes_turns: Whether its owner shares the queue with others: then the owner has one slot there while
            tasks of the queue wait for a worker, unless `Limits.concurrency_limit` says how many.
        capabilities: What the client of the creating call can be asked.
        parent: The name of the task whose tool has submitted it; empty if none has.
        stored_bytes: The size of its arguments, result, variables and journal together. Of a task that a
            release has recorded which did not count: only of what was added since.
    """

    task_id: str
    owner: Owner
    tool: str
    queue: str
    policy: Policy
    status: TaskStatus
    revision: int
    created_ms: int
    updated_ms: int
    due_ms: int
    deadline_ms: int
    expires_ms: int = 0
    as_of_ms: int = field(default=0, compare=False)
    status_message: str | None = None
    claims: int = 0
    attempts: int = 0
    retries: int = 0
    lease: Lease | None = None
    dispatched_ms: int = 0
    redispatches: int = 0
    visible: bool = True
    return_by_ms: int = 0
    resumable_until_ms: int = 0
    reconnect_ms: int = 0
    slot: Slot | None = None
    takes_turns: bool = False
    waits: Wait | None = None
    era: str = ""
    capabilities: frozenset[ClientCapability] = frozenset()
    trace: str = ""
    service: str = ""
    progress: Progress | None = None
    failure: Failure | None = None
    is_error: bool = False
    variables: Mapping[str, JsonText] = field(default_factory=dict)
    inputs: Mapping[str, InputRequest] = field(default_factory=dict)
    used_keys: tuple[str, ...] = ()
    journal_length: int = 0
    journal_bytes: int = 0
    idempotency: str = ""
    parent: str = ""
    stored_bytes: int = 0
    unknown: Unknown = ()

    @property
    def phase(self) -> Phase:
        """The phase, derived from status and lease."""
        if self.status is TaskStatus.WORKING:
            return Phase.PENDING if self.lease is None else Phase.RUNNING
        return _PHASE_OF_STATUS[self.status]

    @property
    def concurrency_key(self) -> ConcurrencyKey:
        """Where it waits for the owner's other tasks."""
        return ConcurrencyKey(self.owner, self.queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task with everything that is stored of it, as operators and tests see it."""

    task: Task
    arguments: JsonText
    caller: Identity = NOT_RECORDED
    result: JsonText | None = None
    exception: ToolException | None = None
    journal: tuple[JournalEntry, ...] = ()
    log: tuple[LogEntry, ...] = ()
