"""One task's life in a test: what `decide` says is applied to a record, as a store would."""

from __future__ import annotations

from dataclasses import replace

from tasks_service.domain.decide import Applied, Decision, StoreCounts, decide
from tasks_service.domain.events import (
    AnswerInput,
    Claim,
    CompleteWithResult,
    Create,
    Event,
    FailWithError,
    Question,
    RequestInput,
)
from tasks_service.domain.limits import DEFAULT_LIMITS, Limits
from tasks_service.domain.task import (
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Owner,
    Phase,
    Policy,
    Task,
    TaskRecord,
)

START_MS = 1_800_000_000_000
OWNER = Owner("owner")
ARGUMENTS = JsonText('{"rows":3}')
RESULT = JsonText('{"content":[]}')
YES = JsonText('{"publish":true}')


def fold(record: TaskRecord | None, applied: Applied) -> TaskRecord | None:
    """The record after what was applied is written."""
    if applied.task is None:
        return None
    if record is None:
        assert applied.arguments is not None, "a creation writes the arguments"
        record = TaskRecord(task=applied.task, arguments=applied.arguments)
    return replace(
        record,
        task=applied.task,
        result=record.result if applied.result is None else applied.result,
        exception=record.exception if applied.exception is None else applied.exception,
        journal=(*record.journal, *applied.journal),
        log=(*record.log, *applied.log),
    )


def answer(key: str, value: JsonText = YES) -> JournalEntry:
    """The journal entry that an answer becomes."""
    return JournalEntry(kind=EntryKind.ANSWER, name=key, digest="d", value=value)


def answers(*keys: str) -> AnswerInput:
    """A client's answers to these questions."""
    return AnswerInput(answers=dict.fromkeys(keys, YES))


def create(policy: Policy | None = None) -> Create:
    """A creation."""
    return Create(
        task_id="task",
        owner=OWNER,
        tool="render",
        queue="gpu",
        arguments=ARGUMENTS,
        policy=policy or Policy(),
    )


class Life:
    """A task, its record, the store's clock, and what the store counts where a test does not say."""

    def __init__(self, policy: Policy | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self.policy = policy or Policy()
        self.limits = limits
        self.now_ms = START_MS
        self.counts: StoreCounts | None = None
        self.record: TaskRecord | None = None

    @property
    def task(self) -> Task:
        """The task as it is stored."""
        assert self.record is not None
        return self.record.task

    @property
    def phase(self) -> Phase | None:
        """The stored phase; None before creation and after expiry."""
        return None if self.record is None else self.record.task.phase

    @property
    def lease_id(self) -> str:
        """The id of the current lease, or one that was never given out."""
        lease = None if self.record is None else self.task.lease
        return "nobody's" if lease is None else lease.lease_id

    def passes(self, ms: int) -> Life:
        """Time passes."""
        self.now_ms += ms
        return self

    def meets(self, event: Event, counts: StoreCounts | None = None) -> Decision:
        """An event happens; what is decided is applied."""
        stored = None if self.record is None else self.record.task
        log = () if self.record is None else self.record.log
        counted = counts or self.counts
        decision = decide(stored, event, self.now_ms, log=log, limits=self.limits, counts=counted)
        if isinstance(decision, Applied):
            self.record = fold(self.record, decision)
        return decision

    def goes(self, event: Event) -> Task:
        """An event happens, and is applied; the task afterwards."""
        decision = self.meets(event)
        assert isinstance(decision, Applied), decision
        assert decision.task is not None
        return decision.task

    def created(self) -> Life:
        """The task is recorded and pending."""
        self.goes(create(self.policy))
        return self

    def claimed(self, lease_id: str | None = None) -> Life:
        """A worker takes the task."""
        run = self.task.claims + 1
        self.goes(Claim(lease_id=lease_id or f"lease-{run}", worker=f"worker-{run}"))
        return self

    def asked(self, *keys: str, open_ms: int | None = None, default: JsonText | None = None) -> Life:
        """The tool asks, each question open for as long and with the same default."""
        question = Question(request=JsonText("{}"), open_ms=open_ms, default=default)
        self.goes(RequestInput(lease_id=self.lease_id, inputs=dict.fromkeys(keys, question)))
        return self

    def completed(self) -> Life:
        """The tool returns."""
        self.goes(CompleteWithResult(lease_id=self.lease_id, result=RESULT))
        return self

    def failed(self) -> Life:
        """The tool fails for good."""
        failure = Failure(kind=FailureKind.AUTHOR, message="No such scene.", code=-32000)
        self.goes(FailWithError(lease_id=self.lease_id, failure=failure))
        return self
