"""The state machine, arrow by arrow and rule by rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from tasks_service.domain import events
from tasks_service.domain.decide import (
    GONE,
    TRANSITIONS,
    Applied,
    Decision,
    IdempotencyRecord,
    Refused,
    Replayed,
    StoreCounts,
    decide,
    effective,
    next_due_ms,
    poll_interval_ms,
    redispatch_backoff_ms,
    ttl_ms,
)
from tasks_service.domain.errors import (
    ConcurrencyLimitReached,
    IdempotencyConflict,
    InvalidTransition,
    JournalRolledBack,
    LeaseLost,
    LimitExceeded,
    QuotaExceeded,
    TaskNotFound,
)
from tasks_service.domain.events import (
    AnswerInput,
    CallerLeft,
    CallerReturned,
    Cancel,
    CancelByOperator,
    Checkpoint,
    Claim,
    ClientEvent,
    CompleteWithResult,
    Create,
    DeadlinePassed,
    Event,
    Expire,
    ExplainWait,
    FailWithError,
    GrantSlot,
    MakeVisible,
    OperatorEvent,
    Question,
    Reap,
    Redispatch,
    Release,
    Renew,
    RepairRecord,
    RequestInput,
    Retry,
    Sleep,
    SweepEvent,
    WorkerEvent,
)
from tasks_service.domain.limits import OTHER_QUEUES, Limits
from tasks_service.domain.task import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Lease,
    Phase,
    Policy,
    Progress,
    Slot,
    TaskStatus,
    ToolException,
    Wait,
)
from tests.unit.life import ARGUMENTS, RESULT, START_MS, YES, Life, answer, answers, create

E = TypeVar("E", bound=Exception)

ONE_SEAT = Limits(running_per_owner={"gpu": 1})
ONE_TRY = Policy(max_attempts=1)
FAILURE = Failure(kind=FailureKind.AUTHOR, message="No such scene.", code=-32000)
NO = JsonText('{"publish":false}')


def step(name: str = "upload", value: str = '"url"') -> JournalEntry:
    return JournalEntry(kind=EntryKind.STEP, name=name, digest="d", value=JsonText(value))


def refusal(decision: Decision, error: type[E]) -> E:
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, error)
    return decision.error


# --- lives that have come as far as a phase ---------------------------------------------------------


def not_yet() -> Life:
    return Life()


def pending() -> Life:
    return Life().created()


def running() -> Life:
    return Life().created().claimed()


def parked() -> Life:
    return running().asked("a", "b", open_ms=HOUR)


def completed() -> Life:
    return running().completed()


def failed() -> Life:
    return running().failed()


def cancelled() -> Life:
    life = running()
    life.goes(Cancel())
    return life


IN_PHASE: dict[Phase | None, Callable[[], Life]] = {
    None: not_yet,
    Phase.PENDING: pending,
    Phase.RUNNING: running,
    Phase.PARKED: parked,
    Phase.COMPLETED: completed,
    Phase.FAILED: failed,
    Phase.CANCELLED: cancelled,
}
FINAL = (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED)


def complete(life: Life) -> CompleteWithResult:
    return CompleteWithResult(lease_id=life.lease_id, result=RESULT)


def fail(life: Life) -> FailWithError:
    return FailWithError(lease_id=life.lease_id, failure=FAILURE)


def retry(life: Life, *, delay_ms: int = SECOND) -> Retry:
    return Retry(lease_id=life.lease_id, delay_ms=delay_ms, otherwise=complete(life), message="Disk full.")


def ask(life: Life, *keys: str) -> RequestInput:
    question = Question(request=JsonText("{}"))
    return RequestInput(lease_id=life.lease_id, inputs=dict.fromkeys(keys, question))


def fix(*, result: bool = False, journal: int = 0) -> RepairRecord:
    return RepairRecord(result_present=result, journal_kept=journal, journal_bytes_kept=0)


def damaged(life: Callable[[], Life], **changes: Any) -> Callable[[], Life]:
    """A life whose stored task says something else than what happened to it."""

    def changed() -> Life:
        lived = life()
        assert lived.record is not None
        lived.record = replace(lived.record, task=replace(lived.task, **changes))
        return lived

    return changed


EXAMPLES: dict[type[Event], Callable[[Life], Event]] = {
    Create: lambda _: create(),
    Claim: lambda _: Claim(lease_id="new", worker="w"),
    Renew: lambda life: Renew(lease_id=life.lease_id),
    Checkpoint: lambda life: Checkpoint(lease_id=life.lease_id, progress=Progress(current=1)),
    RequestInput: lambda life: ask(life, "c"),
    AnswerInput: lambda _: answers("a"),
    Sleep: lambda life: Sleep(lease_id=life.lease_id, delay_ms=HOUR),
    Retry: retry,
    Release: lambda life: Release(lease_id=life.lease_id),
    CompleteWithResult: complete,
    FailWithError: fail,
    Cancel: lambda _: Cancel(),
    CancelByOperator: lambda _: CancelByOperator(),
    MakeVisible: lambda _: MakeVisible(),
    CallerLeft: lambda _: CallerLeft(within_ms=MINUTE),
    CallerReturned: lambda _: CallerReturned(),
    Reap: lambda _: Reap(),
    DeadlinePassed: lambda _: DeadlinePassed(),
    Expire: lambda _: Expire(),
    Redispatch: lambda _: Redispatch(),
    GrantSlot: lambda _: GrantSlot(),
    ExplainWait: lambda _: ExplainWait(waits=Wait.NO_WORKER),
    RepairRecord: lambda _: fix(),
}


# --- the table --------------------------------------------------------------------------------------


def test_the_table_knows_every_event() -> None:
    families = {Event, ClientEvent, WorkerEvent, SweepEvent, OperatorEvent}
    classes = {value for value in vars(events).values() if inspect.isclass(value)}
    every_event = {value for value in classes if issubclass(value, Event)} - families
    assert {event for row in TRANSITIONS.values() for event in row} == every_event == set(EXAMPLES)


def test_the_table_has_a_row_for_every_phase() -> None:
    assert set(TRANSITIONS) == {None, *Phase}


def test_only_expiry_and_a_lost_result_lead_out_of_a_final_phase() -> None:
    for phase in FINAL:
        leaving = {event for event, targets in TRANSITIONS[phase].items() if targets != (phase,)}
        assert leaving == ({Expire, RepairRecord} if phase is Phase.COMPLETED else {Expire})


Scenario = tuple[Callable[[], Life], Callable[[Life], Event]]


def last_try() -> Life:
    return Life(ONE_TRY).created().claimed()


def tries_used_up() -> Life:
    life = pending()
    assert life.record is not None
    life.record = replace(life.record, task=replace(life.task, attempts=life.policy.max_attempts))
    return life


def waiting() -> Life:
    """When it came, its owner's only slot was taken for another hour."""
    life = Life(limits=ONE_SEAT)
    life.meets(create(), taken(life, HOUR))
    return life


def rested() -> Life:
    """It had a slot, gave it back to sleep for a second, and is due."""
    life = Life(limits=ONE_SEAT).created().claimed()
    life.goes(Sleep(lease_id=life.lease_id, delay_ms=SECOND))
    return life.passes(SECOND)


def displaced() -> Life:
    """It has rested, and another has its owner's only slot, for another hour."""
    life = rested()
    life.counts = taken(life, HOUR)
    return life


def turned_away() -> Life:
    """A worker has come for it while another had its owner's only slot; it is free by now."""
    life = displaced()
    life.goes(Claim(lease_id="early", worker="w"))
    life.counts = None
    return life


def taken(life: Life, ms: int) -> StoreCounts:
    """All slots of the lane are taken, for so long."""
    return StoreCounts(slots_until_ms=life.now_ms + ms)


def later(life: Callable[[], Life], ms: int) -> Callable[[], Life]:
    return lambda: life().passes(ms)


def hidden(life: Callable[[], Life]) -> Callable[[], Life]:
    """The same task, without a handle."""

    def made() -> Life:
        changed = life()
        assert changed.record is not None
        changed.record = replace(changed.record, task=replace(changed.task, visible=False, reconnect_ms=DAY))
        return changed

    return made


def left(life: Callable[[], Life]) -> Callable[[], Life]:
    """The same task, whose caller has left for a minute at most."""

    def made() -> Life:
        changed = hidden(life)()
        changed.goes(CallerLeft(within_ms=MINUTE))
        return changed

    return made


def staggered(*, first_default: JsonText | None, second_default: JsonText | None) -> Callable[[], Life]:
    """Two questions: the first is open for a minute, the second for an hour."""

    def life() -> Life:
        asking = running()
        first = Question(request=JsonText("{}"), open_ms=MINUTE, default=first_default)
        second = Question(request=JsonText("{}"), open_ms=HOUR, default=second_default)
        asking.goes(RequestInput(lease_id=asking.lease_id, inputs={"first": first, "second": second}))
        return asking

    return life


LEASE = Lease(lease_id="stale", until_ms=START_MS, worker="w")
BOTH_DEFAULT = staggered(first_default=YES, second_default=NO)
FIRST_DEFAULT = staggered(first_default=YES, second_default=None)
LONG = 40 * DAY
OVERDUE, EXPIRE, REAP = EXAMPLES[DeadlinePassed], EXAMPLES[Expire], EXAMPLES[Reap]

ARROWS: dict[tuple[Phase | None, type[Event], Phase | None], Scenario] = {
    (GONE, Create, Phase.PENDING): (not_yet, EXAMPLES[Create]),
    (Phase.PENDING, Claim, Phase.RUNNING): (pending, EXAMPLES[Claim]),
    (Phase.PENDING, Claim, Phase.PENDING): (displaced, EXAMPLES[Claim]),
    (Phase.PENDING, Claim, Phase.FAILED): (tries_used_up, EXAMPLES[Claim]),
    (Phase.PENDING, Cancel, Phase.CANCELLED): (pending, EXAMPLES[Cancel]),
    (Phase.PENDING, CancelByOperator, Phase.CANCELLED): (pending, EXAMPLES[CancelByOperator]),
    (Phase.PENDING, DeadlinePassed, Phase.FAILED): (later(pending, DAY), OVERDUE),
    (Phase.PENDING, MakeVisible, Phase.PENDING): (pending, EXAMPLES[MakeVisible]),
    (Phase.PENDING, CallerLeft, Phase.PENDING): (hidden(pending), EXAMPLES[CallerLeft]),
    (Phase.PENDING, CallerReturned, Phase.PENDING): (left(pending), EXAMPLES[CallerReturned]),
    (Phase.PENDING, DeadlinePassed, Phase.CANCELLED): (later(left(pending), MINUTE), OVERDUE),
    (Phase.PENDING, Redispatch, Phase.PENDING): (pending, EXAMPLES[Redispatch]),
    (Phase.PENDING, GrantSlot, Phase.PENDING): (waiting, EXAMPLES[GrantSlot]),
    (Phase.PENDING, ExplainWait, Phase.PENDING): (pending, EXAMPLES[ExplainWait]),
    (Phase.RUNNING, Renew, Phase.RUNNING): (running, EXAMPLES[Renew]),
    (Phase.RUNNING, Checkpoint, Phase.RUNNING): (running, EXAMPLES[Checkpoint]),
    (Phase.RUNNING, RequestInput, Phase.PARKED): (running, EXAMPLES[RequestInput]),
    (Phase.RUNNING, Sleep, Phase.PENDING): (running, EXAMPLES[Sleep]),
    (Phase.RUNNING, Retry, Phase.PENDING): (running, retry),
    (Phase.RUNNING, Retry, Phase.COMPLETED): (last_try, retry),
    (Phase.RUNNING, Retry, Phase.FAILED): (last_try, lambda life: replace(retry(life), otherwise=fail(life))),
    (Phase.RUNNING, Release, Phase.PENDING): (running, EXAMPLES[Release]),
    (Phase.RUNNING, Release, Phase.FAILED): (
        last_try,
        lambda life: Release(lease_id=life.lease_id, lost=True),
    ),
    (Phase.RUNNING, CompleteWithResult, Phase.COMPLETED): (running, complete),
    (Phase.RUNNING, FailWithError, Phase.FAILED): (running, fail),
    (Phase.RUNNING, Cancel, Phase.CANCELLED): (running, EXAMPLES[Cancel]),
    (Phase.RUNNING, CancelByOperator, Phase.CANCELLED): (running, EXAMPLES[CancelByOperator]),
    (Phase.RUNNING, Reap, Phase.PENDING): (later(running, 10 * SECOND), REAP),
    (Phase.RUNNING, Reap, Phase.FAILED): (later(last_try, 10 * SECOND), REAP),
    (Phase.RUNNING, DeadlinePassed, Phase.FAILED): (later(running, DAY), OVERDUE),
    (Phase.RUNNING, MakeVisible, Phase.RUNNING): (running, EXAMPLES[MakeVisible]),
    (Phase.RUNNING, CallerLeft, Phase.RUNNING): (hidden(running), EXAMPLES[CallerLeft]),
    (Phase.RUNNING, CallerReturned, Phase.RUNNING): (left(running), EXAMPLES[CallerReturned]),
    (Phase.RUNNING, DeadlinePassed, Phase.CANCELLED): (later(left(running), MINUTE), OVERDUE),
    (Phase.PARKED, AnswerInput, Phase.PARKED): (parked, lambda _: answers("a")),
    (Phase.PARKED, AnswerInput, Phase.PENDING): (parked, lambda _: answers("a", "b")),
    (Phase.PARKED, Cancel, Phase.CANCELLED): (parked, EXAMPLES[Cancel]),
    (Phase.PARKED, CancelByOperator, Phase.CANCELLED): (parked, EXAMPLES[CancelByOperator]),
    (Phase.PARKED, DeadlinePassed, Phase.PARKED): (later(BOTH_DEFAULT, MINUTE), OVERDUE),
    (Phase.PARKED, DeadlinePassed, Phase.PENDING): (later(BOTH_DEFAULT, HOUR), OVERDUE),
    (Phase.PARKED, DeadlinePassed, Phase.FAILED): (later(parked, HOUR), OVERDUE),
    (Phase.PARKED, MakeVisible, Phase.PARKED): (parked, EXAMPLES[MakeVisible]),
    (Phase.PARKED, CallerLeft, Phase.PARKED): (hidden(parked), EXAMPLES[CallerLeft]),
    (Phase.PARKED, CallerReturned, Phase.PARKED): (left(parked), EXAMPLES[CallerReturned]),
    (Phase.PARKED, DeadlinePassed, Phase.CANCELLED): (later(left(parked), MINUTE), OVERDUE),
    (Phase.COMPLETED, Expire, GONE): (later(completed, LONG), EXPIRE),
    (Phase.COMPLETED, MakeVisible, Phase.COMPLETED): (completed, EXAMPLES[MakeVisible]),
    (Phase.FAILED, Expire, GONE): (later(failed, LONG), EXPIRE),
    (Phase.FAILED, MakeVisible, Phase.FAILED): (failed, EXAMPLES[MakeVisible]),
    (Phase.CANCELLED, Expire, GONE): (later(cancelled, LONG), EXPIRE),
    (Phase.CANCELLED, MakeVisible, Phase.CANCELLED): (cancelled, EXAMPLES[MakeVisible]),
    (Phase.PENDING, RepairRecord, Phase.FAILED): (damaged(pending, journal_length=1), EXAMPLES[RepairRecord]),
    (Phase.RUNNING, RepairRecord, Phase.FAILED): (damaged(running, journal_length=1), EXAMPLES[RepairRecord]),
    (Phase.PARKED, RepairRecord, Phase.FAILED): (damaged(parked, inputs={}), EXAMPLES[RepairRecord]),
    (Phase.COMPLETED, RepairRecord, Phase.COMPLETED): (
        damaged(completed, lease=LEASE),
        lambda _: fix(result=True),
    ),
    (Phase.COMPLETED, RepairRecord, Phase.FAILED): (completed, EXAMPLES[RepairRecord]),
    (Phase.FAILED, RepairRecord, Phase.FAILED): (damaged(failed, failure=None), EXAMPLES[RepairRecord]),
    (Phase.CANCELLED, RepairRecord, Phase.CANCELLED): (
        damaged(cancelled, lease=LEASE),
        EXAMPLES[RepairRecord],
    ),
}


def test_every_arrow_of_the_table_has_a_scenario() -> None:
    table = {
        (source, event, target)
        for source, row in TRANSITIONS.items()
        for event, targets in row.items()
        for target in targets
    }
    assert set(ARROWS) == table


@pytest.mark.parametrize(
    ("arrow", "scenario"),
    ARROWS.items(),
    ids=[f"{source or 'gone'}-{event.__name__}-{target or 'gone'}" for source, event, target in ARROWS],
)
def test_every_arrow_of_the_table_can_be_walked(
    arrow: tuple[Phase | None, type[Event], Phase | None], scenario: Scenario
) -> None:
    source, _, target = arrow
    life = scenario[0]()
    assert life.phase is source

    decision = life.meets(scenario[1](life))

    assert isinstance(decision, Applied)
    assert life.phase is target


REFUSED_CELLS = [
    (phase, event) for phase in (None, *Phase) for event in EXAMPLES if event not in TRANSITIONS[phase]
]


def expected_refusal(phase: Phase | None, event: type[Event]) -> type[Exception]:
    if phase is None:
        return TaskNotFound
    return LeaseLost if issubclass(event, WorkerEvent) else InvalidTransition


@pytest.mark.parametrize(
    ("phase", "event"), REFUSED_CELLS, ids=[f"{p or 'gone'}-{e.__name__}" for p, e in REFUSED_CELLS]
)
def test_every_other_cell_is_refused_with_the_facts(phase: Phase | None, event: type[Event]) -> None:
    life = IN_PHASE[phase]()
    before = life.record

    decision = life.meets(EXAMPLES[event](life))

    assert isinstance(decision, Refused)
    assert decision.current is phase
    assert type(decision.error) is expected_refusal(phase, event)
    if isinstance(decision.error, InvalidTransition):
        facts = (decision.error.task_id, decision.error.current, decision.error.attempted)
        assert facts == ("task", phase, event.__name__)
    assert life.record == before


@pytest.mark.parametrize("event", [e for e in EXAMPLES if issubclass(e, WorkerEvent)])
def test_a_worker_with_a_foreign_lease_is_told_what_became_of_the_task(event: type[WorkerEvent]) -> None:
    life = running()
    before = life.record

    decision = life.meets(replace(EXAMPLES[event](life), lease_id="stale"))  # type: ignore[call-arg]

    assert refusal(decision, LeaseLost).current == Phase.RUNNING
    assert life.record == before


def test_who_may_send_an_event_is_written_into_its_class() -> None:
    assert {e.__name__: e.actor for e in EXAMPLES} == {
        **{e.__name__: "client" for e in EXAMPLES if issubclass(e, ClientEvent | Create)},
        **{e.__name__: "worker" for e in EXAMPLES if issubclass(e, WorkerEvent | Claim)},
        **{e.__name__: "sweep" for e in EXAMPLES if issubclass(e, SweepEvent)},
        **{e.__name__: "operator" for e in EXAMPLES if issubclass(e, OperatorEvent)},
        "RepairRecord": "repair",
    }


# --- create -----------------------------------------------------------------------------------------


def test_a_created_task_is_pending_and_due_at_once() -> None:
    life = Life()
    task = life.goes(create())
    assert (task.status, task.phase, task.revision) == (TaskStatus.WORKING, Phase.PENDING, 0)
    assert task.due_ms == task.created_ms == task.updated_ms == START_MS
    assert (task.claims, task.attempts) == (0, 0)


def test_a_creation_writes_arguments_and_the_first_line_of_the_log() -> None:
    event = create()
    decision = Life().meets(event)
    assert isinstance(decision, Applied)
    assert decision.arguments == ARGUMENTS
    (line,) = decision.log
    assert (line.revision, line.source, line.target, line.token) == (0, None, Phase.PENDING, event.token)
    assert (line.actor, line.at_ms) == ("client", START_MS)


def test_a_task_may_be_created_with_answers_that_were_given_before_it_existed() -> None:
    life = Life()
    life.goes(replace(create(), journal=(answer("a"), answer("b"))))
    assert life.record is not None
    assert life.record.journal == (answer("a"), answer("b"))
    assert (life.task.journal_length, life.task.journal_bytes) == (2, 2 * len(YES))


def test_answers_given_before_creation_meet_the_journals_limit() -> None:
    decision = Life(limits=Limits(journal_entries=1)).meets(
        replace(create(), journal=(answer("a"), answer("b")))
    )
    assert refusal(decision, LimitExceeded).maximum == 1


def test_a_creation_over_the_owners_quota_is_refused() -> None:
    error = refusal(
        Life(limits=Limits(live_per_owner=5)).meets(create(), StoreCounts(owner_live=5)), QuotaExceeded
    )
    assert (error.what, error.maximum, error.actual) == ("live tasks of one owner", 5, 5)


def test_a_creation_up_to_the_owners_quota_is_allowed() -> None:
    decision = Life(limits=Limits(live_per_owner=5)).meets(create(), StoreCounts(owner_live=4))
    assert isinstance(decision, Applied)


def test_a_creation_over_the_stores_quota_is_refused() -> None:
    limits = Limits(tasks_per_shard=5)
    error = refusal(Life(limits=limits).meets(create(), StoreCounts(stored=5)), QuotaExceeded)
    assert (error.what, error.maximum, error.actual) == ("stored tasks of one shard", 5, 5)


def test_arguments_over_the_limit_are_refused_and_nothing_is_recorded() -> None:
    life = Life(limits=Limits(arguments_bytes=4))
    error = refusal(life.meets(create()), LimitExceeded)
    assert (error.what, error.maximum, error.actual) == ("arguments", 4, len(ARGUMENTS))
    assert life.record is None


EARLIER = IdempotencyRecord(task_id="earlier", request_digest="same")


def earlier() -> StoreCounts:
    """What a create meets under the key of an earlier task, which lives."""
    return StoreCounts(existing=EARLIER, existing_task=running().task, owner_live=10**9)


def test_a_repeated_idempotency_key_leads_to_the_earlier_task() -> None:
    event = replace(create(), idempotency="key", request_digest="same")
    decision = Life().meets(event, earlier())
    assert decision == Replayed(task=None, task_id="earlier")


def test_an_idempotency_key_with_another_request_is_a_conflict() -> None:
    event = replace(create(), idempotency="key", request_digest="other")
    refusal(Life().meets(event, earlier()), IdempotencyConflict)


def test_an_idempotency_key_never_leads_to_the_task_of_another_service() -> None:
    counts = replace(earlier(), existing_task=replace(running().task, service="Shop"))
    event = replace(create(), idempotency="key", request_digest="same", service="Office")
    refusal(Life().meets(event, counts), IdempotencyConflict)
    for service in ("Shop", ""):
        again = Life().meets(replace(event, service=service), counts)
        assert again == Replayed(task=None, task_id="earlier")


def test_a_hidden_task_is_revealed_by_giving_out_its_handle() -> None:
    life = Life()
    assert not life.goes(replace(create(), visible=False)).visible
    revealed = life.passes(SECOND).goes(MakeVisible())
    assert revealed.visible
    assert (revealed.revision, revealed.updated_ms) == (0, START_MS)


# --- a caller that has left -------------------------------------------------------------------------


@pytest.mark.parametrize("life", [pending, running, parked])
def test_a_task_whose_caller_does_not_come_back_is_cancelled_at_the_moment_that_was_set(
    life: Callable[[], Life],
) -> None:
    alone = left(life)()
    before, due_ms = alone.task, alone.now_ms + MINUTE
    assert next_due_ms(before) == due_ms

    assert effective(before, due_ms - 1) == before
    after = effective(before, due_ms + HOUR)

    assert after is not None
    assert (after.status, after.updated_ms, after.return_by_ms) == (TaskStatus.CANCELLED, due_ms, 0)
    assert after.status_message == "The caller went away and did not come back."
    assert after.lease is None
    assert not after.inputs
    assert alone.passes(HOUR).goes(DeadlinePassed()) == after


@pytest.mark.parametrize("event", [CallerReturned(), MakeVisible()])
def test_a_caller_that_comes_back_or_is_given_the_handle_is_not_waited_for(event: Event) -> None:
    life = left(running)()

    assert life.goes(event).return_by_ms == 0
    assert effective(life.task, life.now_ms + HOUR) == life.task


def test_leaving_again_sets_a_new_time() -> None:
    life = left(parked)()
    life.passes(MINUTE // 2).goes(CallerLeft(within_ms=MINUTE))
    assert life.task.return_by_ms == life.now_ms + MINUTE


def test_nobody_leaves_a_task_whose_handle_was_given_out() -> None:
    refused = refusal(running().meets(CallerLeft(within_ms=MINUTE)), InvalidTransition)
    assert "handle" in str(refused)


def test_a_task_whose_handle_was_given_out_is_not_cancelled_because_a_call_was_left() -> None:
    event = Cancel(reason="The caller went away.", unheld=True)

    assert "handle" in str(refusal(running().meets(event), InvalidTransition))
    assert hidden(running)().goes(event).status is TaskStatus.CANCELLED


def test_a_caller_comes_back_too_late() -> None:
    assert (
        refusal(left(running)().passes(MINUTE).meets(CallerReturned()), InvalidTransition).current
        == "cancelled"
    )


def test_a_task_goes_on_while_its_caller_is_away_and_its_own_deadline_counts_too() -> None:
    life = left(parked)()
    life.goes(answers("a", "b"))
    assert life.task.return_by_ms == life.now_ms + MINUTE
    assert life.claimed().completed().task.return_by_ms == 0
    asked = hidden(running)()
    asked.asked("soon", open_ms=SECOND).goes(CallerLeft(within_ms=MINUTE))
    after = effective(asked.task, asked.now_ms + HOUR)
    assert after is not None
    assert after.status is TaskStatus.FAILED


# --- claim: run, tries, lease -----------------------------------------------------------------------


def test_a_claim_counts_a_run_and_a_try_and_takes_the_lease() -> None:
    task = pending().goes(Claim(lease_id="mine", worker="w1"))
    assert (task.claims, task.attempts, task.phase) == (1, 1, Phase.RUNNING)
    assert task.lease is not None
    assert (task.lease.lease_id, task.lease.worker) == ("mine", "w1")
    assert task.lease.until_ms == START_MS + 10 * SECOND


def test_the_log_names_the_worker_that_claimed() -> None:
    decision = pending().meets(Claim(lease_id="mine", worker="w1"))
    assert isinstance(decision, Applied)
    assert [line.actor for line in decision.log] == ["w1"]


def test_a_claim_before_the_task_is_due_is_refused() -> None:
    life = running()
    life.goes(Sleep(lease_id=life.lease_id, delay_ms=MINUTE))
    error = refusal(life.passes(MINUTE - 1).meets(Claim(lease_id="x", worker="w")), InvalidTransition)
    assert "not due for another 1 ms" in error.reason
    assert life.passes(1).claimed().phase is Phase.RUNNING


def test_a_second_claim_is_refused_while_the_first_runs() -> None:
    error = refusal(running().meets(Claim(lease_id="second", worker="w2")), InvalidTransition)
    assert error.current == Phase.RUNNING


def test_a_claim_of_a_task_without_tries_left_fails_it() -> None:
    life = tries_used_up()
    task = life.goes(Claim(lease_id="x", worker="w"))
    assert task.failure is not None
    assert task.failure.kind is FailureKind.ATTEMPTS
    assert (task.claims, task.lease) == (0, None)


def test_an_attempts_deadline_is_the_tools_timeout() -> None:
    life = Life(Policy(timeout_ms=MINUTE)).created().passes(SECOND).claimed()
    assert life.task.deadline_ms == START_MS + SECOND + MINUTE


def test_the_lease_never_outlasts_the_attempt() -> None:
    life = Life(Policy(timeout_ms=3 * SECOND, lease_ms=10 * SECOND)).created().claimed()
    assert life.task.lease is not None
    assert life.task.lease.until_ms == life.task.deadline_ms
    renewed = life.passes(SECOND).goes(Renew(lease_id=life.lease_id))
    assert renewed.lease is not None
    assert renewed.lease.until_ms == renewed.deadline_ms


# --- renew and note ---------------------------------------------------------------------------------


def test_a_renewal_prolongs_the_lease_and_moves_nothing_else() -> None:
    life = running().passes(3 * SECOND)
    before = life.task
    decision = life.meets(Renew(lease_id=life.lease_id))
    assert isinstance(decision, Applied)
    assert decision.log == ()
    assert life.task.lease is not None and before.lease is not None
    assert life.task.lease.until_ms == START_MS + 13 * SECOND
    assert replace(life.task, lease=before.lease) == before


def test_a_renewal_never_shortens_the_lease() -> None:
    life = running()
    until_ms = life.task.lease.until_ms if life.task.lease else 0
    life.now_ms -= SECOND
    renewed = life.goes(Renew(lease_id=life.lease_id))
    assert renewed.lease is not None
    assert renewed.lease.until_ms == until_ms


def test_a_late_holder_keeps_the_task_until_somebody_reaps_it() -> None:
    life = running().passes(MINUTE)
    renewed = life.goes(Renew(lease_id=life.lease_id))
    assert renewed.lease is not None
    assert renewed.lease.until_ms == life.now_ms + 10 * SECOND


def test_variables_are_merged_and_none_deletes() -> None:
    life = running()
    life.goes(Checkpoint(lease_id=life.lease_id, variables={"a": JsonText("1"), "b": JsonText("2")}))
    task = life.goes(Checkpoint(lease_id=life.lease_id, variables={"a": None, "c": JsonText("3"), "d": None}))
    assert dict(task.variables) == {"b": "2", "c": "3"}


def test_variables_outlive_the_attempt() -> None:
    life = running()
    life.goes(Checkpoint(lease_id=life.lease_id, variables={"a": JsonText("1")}))
    assert dict(life.goes(Release(lease_id=life.lease_id)).variables) == {"a": "1"}


def test_variables_over_the_limit_are_refused_together_and_the_lease_stands() -> None:
    life = Life(limits=Limits(variables_bytes=20)).created().claimed()
    life.goes(Checkpoint(lease_id=life.lease_id, variables={"a": JsonText("1")}))
    note = Checkpoint(lease_id=life.lease_id, variables={"b": JsonText("2" * 20)})
    assert refusal(life.meets(note), LimitExceeded).what == "variables"
    assert dict(life.task.variables) == {"a": "1"}
    assert life.phase is Phase.RUNNING


def test_a_note_writes_no_log_and_leaves_the_last_update_alone() -> None:
    life = running().passes(SECOND)
    decision = life.meets(Checkpoint(lease_id=life.lease_id, progress=Progress(current=1, message="Half.")))
    assert isinstance(decision, Applied)
    assert decision.log == ()
    assert (life.task.revision, life.task.updated_ms) == (1, START_MS)
    assert life.task.status_message == "Half."


def test_a_note_without_a_message_keeps_the_status_message() -> None:
    life = running()
    life.goes(Checkpoint(lease_id=life.lease_id, progress=Progress(current=1, message="Half.")))
    assert (
        life.goes(Checkpoint(lease_id=life.lease_id, progress=Progress(current=2))).status_message == "Half."
    )


def test_a_long_progress_message_is_cut_and_not_refused() -> None:
    life = Life(limits=Limits(status_message_bytes=16)).created().claimed()
    task = life.goes(Checkpoint(lease_id=life.lease_id, progress=Progress(current=1, message="ä" * 99)))
    assert task.status_message is not None and task.progress is not None
    assert len(task.status_message.encode()) <= 16
    assert task.status_message.endswith("…")
    assert task.progress.message == task.status_message


def test_a_step_is_journaled_once_however_often_it_is_noted() -> None:
    life = running()
    note = Checkpoint(lease_id=life.lease_id, step=step(), step_index=0)
    life.goes(note)
    assert isinstance(life.meets(replace(note, token="again")), Replayed)
    assert life.record is not None
    assert life.record.journal == (step(),)
    assert life.task.journal_length == 1


def test_a_worker_that_builds_upon_a_longer_journal_is_told_how_much_is_left_and_keeps_its_lease() -> None:
    life = running()
    life.goes(Checkpoint(lease_id=life.lease_id, step=step(), step_index=0))
    for event in (
        Checkpoint(lease_id=life.lease_id, variables={"a": JsonText("1")}, journal_length=2),
        Sleep(lease_id=life.lease_id, delay_ms=0, journal_length=2),
        CompleteWithResult(lease_id=life.lease_id, result=JsonText("{}"), journal_length=2),
    ):
        assert refusal(life.meets(event), JournalRolledBack).kept == 1
    life.goes(Checkpoint(lease_id=life.lease_id, step=step(), step_index=1, journal_length=1))
    assert life.goes(Sleep(lease_id=life.lease_id, delay_ms=0, journal_length=2)).phase is Phase.PENDING


def test_a_step_cannot_leave_a_hole_in_the_journal() -> None:
    life = running()
    refusal(life.meets(Checkpoint(lease_id=life.lease_id, step=step(), step_index=1)), InvalidTransition)
    assert life.task.journal_length == 0


@pytest.mark.parametrize(
    ("limits", "unit"), [(Limits(journal_entries=0), "entries"), (Limits(journal_bytes=2), "bytes")]
)
def test_a_journal_over_its_limit_is_refused(limits: Limits, unit: str) -> None:
    life = Life(limits=limits).created().claimed()
    error = refusal(life.meets(Checkpoint(lease_id=life.lease_id, step=step())), LimitExceeded)
    assert (error.what, error.unit) == ("journal", unit)


# --- questions --------------------------------------------------------------------------------------


def test_a_question_ends_the_lease_and_forgives_the_tries() -> None:
    task = running().asked("a").task
    assert (task.status, task.lease, task.attempts, task.claims) == (TaskStatus.INPUT_REQUIRED, None, 0, 1)
    assert set(task.inputs) == {"a"}


def test_a_questions_key_is_never_used_again() -> None:
    life = parked()
    life.goes(answers("a", "b"))
    life.claimed()
    error = refusal(life.meets(ask(life, "c", "b")), InvalidTransition)
    assert "'b'" in error.reason


def test_asking_nothing_is_refused() -> None:
    life = running()
    refusal(life.meets(ask(life)), InvalidTransition)


def test_more_questions_than_may_be_open_are_refused() -> None:
    life = Life(limits=Limits(open_inputs=1)).created().claimed()
    error = refusal(life.meets(ask(life, "a", "b")), LimitExceeded)
    assert (error.maximum, error.actual, error.unit) == (1, 2, "questions")


def test_a_question_is_refused_when_the_journal_has_no_room_for_its_answer() -> None:
    life = Life(limits=Limits(journal_entries=1)).created().claimed()
    assert refusal(life.meets(ask(life, "a", "b")), LimitExceeded).what == "journal"


def test_a_parked_task_is_overdue_with_its_first_question() -> None:
    assert BOTH_DEFAULT().task.deadline_ms == START_MS + MINUTE


def test_a_question_that_names_no_time_stays_open_for_the_policys() -> None:
    assert running().asked("a").task.deadline_ms == START_MS + 7 * DAY


def test_the_last_answer_lets_the_tool_go_on() -> None:
    life = parked()
    still = life.goes(answers("a"))
    assert (still.phase, set(still.inputs)) == (Phase.PARKED, {"b"})
    again = life.passes(SECOND).goes(answers("b"))
    assert (again.phase, again.due_ms, dict(again.inputs)) == (Phase.PENDING, life.now_ms, {})
    assert life.record is not None
    assert [entry.name for entry in life.record.journal] == ["a", "b"]


def test_the_first_answer_moves_the_deadline_to_the_next_question() -> None:
    life = BOTH_DEFAULT()
    assert life.goes(answers("first")).deadline_ms == START_MS + HOUR


def test_unknown_and_answered_keys_are_ignored() -> None:
    life = parked()
    life.goes(answers("a"))
    before = life.record
    decision = life.meets(answers("a", "nonsense"))
    assert isinstance(decision, Applied)
    assert (decision.log, decision.journal) == ((), ())
    assert life.record == before


def test_an_unknown_key_does_not_spoil_the_known_ones() -> None:
    life = parked()
    life.goes(answers("a", "nonsense"))
    assert life.record is not None
    assert [entry.name for entry in life.record.journal] == ["a"]


def test_answers_over_the_limit_are_refused_all_together() -> None:
    life = Life(limits=Limits(answers_bytes=20)).created().claimed().asked("a", "b")
    before = life.record
    assert refusal(life.meets(answers("a", "b")), LimitExceeded).what == "answers"
    assert life.record == before


# --- sleep, retry, release: what the tries come to --------------------------------------------------


def test_sleeping_is_working_without_a_lease_and_outside_patience() -> None:
    life = Life(Policy(queue_timeout_ms=MINUTE)).created().claimed()
    task = life.goes(Sleep(lease_id=life.lease_id, delay_ms=HOUR))
    assert (task.status, task.phase, task.lease) == (TaskStatus.WORKING, Phase.PENDING, None)
    assert (task.due_ms, task.deadline_ms) == (START_MS + HOUR, START_MS + HOUR + MINUTE)
    asleep = effective(task, START_MS + HOUR)
    assert asleep is not None
    assert asleep.phase is Phase.PENDING


def test_sleeping_forgives_the_tries_and_journals_the_timer() -> None:
    life = running()
    timer = JournalEntry(kind=EntryKind.TIMER, name="nap", digest="d", value=JsonText("1"))
    task = life.goes(Sleep(lease_id=life.lease_id, delay_ms=HOUR, timer=timer))
    assert (task.attempts, task.claims) == (0, 1)
    assert life.record is not None
    assert life.record.journal == (timer,)


def test_a_negative_sleep_is_due_at_once() -> None:
    life = running()
    assert life.goes(Sleep(lease_id=life.lease_id, delay_ms=-HOUR)).due_ms == life.now_ms


def test_a_retry_keeps_the_try_and_says_what_went_wrong() -> None:
    life = running()
    task = life.goes(retry(life, delay_ms=MINUTE))
    assert (task.attempts, task.due_ms, task.status_message) == (1, START_MS + MINUTE, "Disk full.")


def test_a_retry_without_attempts_left_ends_with_the_tools_own_error() -> None:
    life = last_try()
    event = retry(life)
    task = life.goes(event)
    assert (task.phase, task.failure) == (Phase.COMPLETED, None)
    assert life.record is not None
    assert life.record.result == RESULT
    assert life.record.log[-1].token == event.token


def test_a_tool_that_always_fails_runs_max_attempts_times() -> None:
    life = Life(Policy(max_attempts=3)).created()
    for _ in range(3):
        life.claimed().goes(retry(life, delay_ms=0))
    assert (life.phase, life.task.claims) == (Phase.COMPLETED, 3)


def test_a_graceful_release_gives_the_try_back() -> None:
    life = running().passes(SECOND)
    task = life.goes(Release(lease_id=life.lease_id))
    assert (task.phase, task.attempts, task.claims, task.due_ms) == (Phase.PENDING, 0, 1, life.now_ms)


def test_a_lost_worker_keeps_the_try_so_that_poison_is_counted() -> None:
    life = running()
    task = life.goes(Release(lease_id=life.lease_id, lost=True))
    assert (task.phase, task.attempts) == (Phase.PENDING, 1)


def test_poison_fails_after_max_attempts() -> None:
    life = Life(Policy(max_attempts=3)).created()
    for _ in range(3):
        life.claimed().goes(Release(lease_id=life.lease_id, lost=True, reason="its worker was killed"))
    failure = life.task.failure
    assert failure is not None
    assert (failure.kind, life.task.claims) == (FailureKind.ATTEMPTS, 3)
    assert "3 times" in failure.message and "its worker was killed" in failure.message


def test_any_number_of_graceful_hand_backs_is_no_poison() -> None:
    life = Life(ONE_TRY).created()
    for _ in range(20):
        life.claimed().goes(Release(lease_id=life.lease_id))
    assert (life.phase, life.task.claims, life.task.attempts) == (Phase.PENDING, 20, 0)


def test_run_never_goes_back() -> None:
    life = running().asked("a")
    life.goes(answers("a"))
    assert life.claimed().task.claims == 2
    life.goes(Release(lease_id=life.lease_id))
    assert life.claimed().task.claims == 3


# --- reap -------------------------------------------------------------------------------------------


def test_a_lease_that_has_not_run_out_is_not_reaped() -> None:
    life = running().passes(10 * SECOND - 1)
    refusal(life.meets(Reap()), InvalidTransition)
    assert life.phase is Phase.RUNNING


def test_reaping_says_which_worker_was_lost() -> None:
    task = running().passes(10 * SECOND).goes(Reap())
    assert (task.phase, task.attempts, task.lease) == (Phase.PENDING, 1, None)
    assert task.status_message is not None
    assert "worker-1" in task.status_message


def test_a_stale_worker_cannot_write_after_its_task_was_reaped_and_claimed_again() -> None:
    life = running()
    stale = complete(life)
    life.passes(10 * SECOND).goes(Reap())
    life.claimed()
    assert refusal(life.meets(stale), LeaseLost).current == Phase.RUNNING
    assert life.completed().phase is Phase.COMPLETED


# --- the ends ---------------------------------------------------------------------------------------


def test_status_and_result_are_one_write() -> None:
    life = running()
    decision = life.meets(replace(complete(life), is_error=True, message="Bad scene."))
    assert isinstance(decision, Applied) and decision.task is not None
    assert decision.result == RESULT
    assert (decision.task.status, decision.task.is_error) == (TaskStatus.COMPLETED, True)
    assert decision.task.status_message == "Bad scene."


def test_a_result_over_the_limit_is_refused_and_the_holder_may_still_fail_the_task() -> None:
    life = Life(limits=Limits(result_bytes=3)).created().claimed()
    assert refusal(life.meets(complete(life)), LimitExceeded).what == "result"
    assert life.goes(fail(life)).phase is Phase.FAILED


def test_a_failure_carries_the_error_and_a_status_message() -> None:
    life = running()
    task = life.goes(fail(life))
    assert (task.failure, task.status_message) == (FAILURE, FAILURE.message)


def test_a_long_failure_message_is_cut_and_long_error_data_refused() -> None:
    life = Life(limits=Limits(status_message_bytes=10, variables_bytes=10)).created().claimed()
    long = replace(FAILURE, data=JsonText('"' + "x" * 20 + '"'))
    refusal(life.meets(FailWithError(lease_id=life.lease_id, failure=long)), LimitExceeded)
    task = life.goes(fail(life))
    assert task.failure is not None
    assert len(task.failure.message.encode()) <= 10


def test_a_cancelled_task_holds_and_asks_nothing_any_more() -> None:
    for life in (running(), parked()):
        task = life.goes(Cancel(reason="Enough."))
        assert (task.status, task.lease, dict(task.inputs)) == (TaskStatus.CANCELLED, None, {})
        assert task.status_message == "Enough."


@pytest.mark.parametrize(
    ("event", "actor", "message"),
    [
        (Cancel(), "client", "The client cancelled the task."),
        (CancelByOperator(), "operator", "An operator cancelled the task."),
        (CancelByOperator(reason="The printer is sold."), "operator", "The printer is sold."),
    ],
)
def test_log_and_message_say_who_cancelled_a_task(event: Event, actor: str, message: str) -> None:
    life = running()
    task = life.goes(event)
    assert (task.phase, task.status_message) == (Phase.CANCELLED, message)
    assert life.record is not None
    assert life.record.log[-1].actor == actor


def raised(claim: int, traceback: str = "Traceback") -> ToolException:
    return ToolException(type="builtins.KeyError", message="'x'", traceback=traceback, claim=claim)


def test_the_newest_exception_of_a_tool_is_kept_whatever_the_attempt_comes_to() -> None:
    life = running()
    life.goes(replace(retry(life, delay_ms=0), exception=raised(1)))
    assert life.record is not None and life.record.exception == raised(1)
    life.claimed().goes(replace(complete(life), is_error=True, exception=raised(2)))
    assert life.record.exception == raised(2)


@pytest.mark.parametrize("end", [complete, fail])
def test_the_exception_of_the_last_attempt_is_kept_with_the_end_that_it_leads_to(
    end: Callable[[Life], CompleteWithResult | FailWithError],
) -> None:
    life = last_try()
    life.goes(replace(retry(life), otherwise=end(life), exception=raised(1)))
    assert life.record is not None and life.record.exception == raised(1)


def test_a_success_leaves_the_exception_of_an_earlier_attempt_with_the_claim_that_it_ended() -> None:
    life = running()
    life.goes(replace(retry(life, delay_ms=0), exception=raised(1)))
    life.claimed().completed()
    assert life.record is not None and life.record.exception == raised(1)


def test_an_exception_of_any_size_loses_its_middle_and_refuses_nothing() -> None:
    limits = Limits(traceback_bytes=100, status_message_bytes=10)
    life = Life(limits=limits).created().claimed()
    long = ToolException(
        type="x" * 99, message="é" * 99, traceback="first\n" + "é\ud800" * 99 + "last", claim=1
    )
    life.goes(replace(complete(life), exception=long))
    assert life.record is not None and (kept := life.record.exception) is not None
    assert kept.traceback.startswith("first\n") and kept.traceback.endswith("last")
    assert len(kept.traceback.encode()) <= 100
    assert len(kept.type.encode()) <= 10 and len(kept.message.encode()) <= 10


def test_the_holder_learns_of_a_cancellation_from_its_next_renewal() -> None:
    life = running()
    renewal = Renew(lease_id=life.lease_id)
    life.goes(Cancel())
    assert refusal(life.meets(renewal), LeaseLost).current == Phase.CANCELLED


# --- time -------------------------------------------------------------------------------------------

OVERDUE_IN: dict[str, tuple[Callable[[], Life], int, FailureKind]] = {
    "pending": (pending, DAY, FailureKind.QUEUE_TIMEOUT),
    "running": (running, DAY, FailureKind.TIMEOUT),
    "parked": (parked, HOUR, FailureKind.QUESTION),
}


@pytest.mark.parametrize(("start", "wait_ms", "kind"), OVERDUE_IN.values(), ids=OVERDUE_IN)
def test_a_deadline_that_passes_fails_the_task_with_the_reason(
    start: Callable[[], Life], wait_ms: int, kind: FailureKind
) -> None:
    life = start().passes(wait_ms - 1)
    before = life.record
    refusal(life.meets(DeadlinePassed()), InvalidTransition)
    assert life.record == before

    task = life.passes(1).goes(DeadlinePassed())

    assert task.failure is not None
    assert task.failure.kind is kind
    assert task.status_message == task.failure.message


@pytest.mark.parametrize(("start", "wait_ms", "kind"), OVERDUE_IN.values(), ids=OVERDUE_IN)
def test_a_reader_sees_a_passed_deadline_before_any_sweep(
    start: Callable[[], Life], wait_ms: int, kind: FailureKind
) -> None:
    life = start()
    seen = effective(life.task, life.now_ms + wait_ms + 5)
    assert seen is not None and seen.failure is not None
    assert seen.failure.kind is kind
    assert seen.updated_ms == life.now_ms + wait_ms
    assert seen == life.passes(wait_ms + 30 * MINUTE).goes(DeadlinePassed())


def test_an_event_after_the_deadline_meets_the_failed_task_and_changes_nothing() -> None:
    life = running()
    before = life.record
    event = complete(life)
    assert refusal(life.passes(DAY).meets(event), LeaseLost).current == Phase.FAILED
    assert life.record == before


def test_a_late_sweep_names_itself_in_the_log_at_the_deadlines_time() -> None:
    life = pending().passes(DAY + MINUTE)
    event = DeadlinePassed()
    decision = life.meets(event)
    assert isinstance(decision, Applied)
    assert [(line.actor, line.at_ms, line.token) for line in decision.log] == [
        ("sweep", START_MS + DAY, event.token)
    ]


def test_a_repeated_overdue_is_recognised() -> None:
    life = pending().passes(DAY)
    event = DeadlinePassed()
    life.goes(event)
    assert isinstance(life.meets(event), Replayed)


def test_silence_gives_the_default_answer() -> None:
    life = BOTH_DEFAULT().passes(HOUR)
    task = life.goes(DeadlinePassed())
    assert task.phase is Phase.PENDING
    assert life.record is not None
    assert [(e.kind, e.name, e.value) for e in life.record.journal] == [
        (EntryKind.ANSWER, "first", YES),
        (EntryKind.ANSWER, "second", NO),
    ]
    assert task.journal_length == 2


def test_each_question_takes_its_default_at_its_own_deadline() -> None:
    life = BOTH_DEFAULT().passes(HOUR)
    life.goes(DeadlinePassed())
    assert life.record is not None
    lines = [(line.revision, line.source, line.target, line.at_ms) for line in life.record.log[-2:]]
    assert lines == [
        (3, Phase.PARKED, Phase.PARKED, START_MS + MINUTE),
        (4, Phase.PARKED, Phase.PENDING, START_MS + HOUR),
    ]


def test_a_default_is_taken_while_another_question_stays_open() -> None:
    task = FIRST_DEFAULT().passes(MINUTE).goes(DeadlinePassed())
    assert (task.phase, set(task.inputs)) == (Phase.PARKED, {"second"})


def test_one_question_without_a_default_fails_the_task_and_keeps_the_defaults_before_it() -> None:
    life = FIRST_DEFAULT().passes(HOUR)
    task = life.goes(DeadlinePassed())
    assert task.failure is not None
    assert task.failure.kind is FailureKind.QUESTION
    assert life.record is not None
    assert [entry.name for entry in life.record.journal] == ["first"]


def test_an_answer_on_top_of_a_default_writes_both_into_the_journal() -> None:
    life = FIRST_DEFAULT().passes(30 * MINUTE)
    decision = life.meets(answers("second"))
    assert isinstance(decision, Applied)
    assert [entry.name for entry in decision.journal] == ["first", "second"]
    assert [line.revision for line in decision.log] == [3, 4]
    assert life.phase is Phase.PENDING


def test_a_claim_on_top_of_defaults_writes_them_into_the_journal() -> None:
    life = BOTH_DEFAULT().passes(2 * HOUR)
    decision = life.meets(Claim(lease_id="x", worker="w"))
    assert isinstance(decision, Applied)
    assert [entry.name for entry in decision.journal] == ["first", "second"]
    assert life.task.journal_length == 2
    assert life.phase is Phase.RUNNING


def test_an_answer_after_its_default_was_taken_is_ignored() -> None:
    life = FIRST_DEFAULT().passes(30 * MINUTE)
    life.goes(AnswerInput(answers={"first": NO}))
    assert life.record is not None
    assert [(entry.name, entry.value) for entry in life.record.journal] == [("first", YES)]


def test_several_deadlines_may_have_passed_at_once() -> None:
    life = BOTH_DEFAULT().passes(HOUR + DAY)
    seen = effective(life.task, life.now_ms)
    assert seen is not None and seen.failure is not None
    assert seen.failure.kind is FailureKind.QUEUE_TIMEOUT
    assert seen == life.goes(DeadlinePassed())


def test_what_is_next_due_is_the_deadline_and_then_the_end() -> None:
    life = pending()
    assert next_due_ms(life.task) == life.task.deadline_ms
    life.goes(Cancel())
    assert next_due_ms(life.task) == life.task.expires_ms


# --- lifetimes --------------------------------------------------------------------------------------


def test_a_ttl_longer_than_all_deadlines_is_honoured() -> None:
    assert ttl_ms(Life(Policy(ttl_ms=20 * DAY)).created().task) == 20 * DAY


def test_an_ended_task_is_kept_for_its_retention() -> None:
    life = Life(Policy(ttl_ms=0, queue_timeout_ms=MINUTE, timeout_ms=MINUTE)).created().claimed()
    life.passes(50 * SECOND).completed()
    assert life.task.expires_ms >= life.now_ms + HOUR


def test_no_life_goes_beyond_the_cap() -> None:
    policy = Policy(max_lifetime_ms=2 * DAY, ttl_ms=9 * DAY, queue_timeout_ms=9 * DAY, timeout_ms=9 * DAY)
    life = Life(policy).created()
    assert ttl_ms(life.task) == 2 * DAY
    assert life.task.deadline_ms == START_MS + 2 * DAY - HOUR
    life.passes(DAY).claimed()
    assert life.task.deadline_ms == START_MS + 2 * DAY - HOUR
    life.asked("a", open_ms=9 * DAY)
    assert life.task.deadline_ms == START_MS + 2 * DAY - HOUR


@pytest.mark.parametrize("start", [pending, running], ids=["pending", "running"])
def test_a_task_that_meets_its_cap_says_so(start: Callable[[], Life]) -> None:
    life = Life(Policy(max_lifetime_ms=3 * HOUR))
    life.created()
    if start is running:
        life.claimed()
    task = life.passes(2 * HOUR).goes(DeadlinePassed())
    assert task.failure is not None
    assert "longest life" in task.failure.message


@pytest.mark.parametrize("phase", FINAL)
def test_a_final_task_expires_at_its_end_and_not_before(phase: Phase) -> None:
    life = IN_PHASE[phase]()
    life.now_ms = life.task.expires_ms - 1
    refusal(life.meets(Expire()), InvalidTransition)
    assert effective(life.task, life.now_ms) is not None
    life.passes(1)
    assert effective(life.task, life.now_ms) is None
    assert life.meets(Expire()) == Applied(task=None)


def test_an_expired_task_is_not_found_although_no_sweep_has_removed_it() -> None:
    life = completed()
    life.now_ms = life.task.expires_ms
    refusal(life.meets(Cancel()), TaskNotFound)


def test_a_task_that_ended_by_its_deadline_long_ago_can_be_removed_in_one_step() -> None:
    life = pending().passes(LONG)
    decision = life.meets(Expire())
    assert isinstance(decision, Applied)
    assert decision.task is None


def test_a_clock_that_goes_back_does_not_take_the_last_update_with_it() -> None:
    life = pending().passes(-SECOND)
    assert life.goes(Cancel()).updated_ms == START_MS


# --- turns ------------------------------------------------------------------------------------------


def seated() -> Life:
    """It runs, in its owner's only slot."""
    return Life(limits=ONE_SEAT).created().claimed()


def test_a_task_takes_a_free_slot_when_it_is_created_and_waits_for_its_turn_where_none_is() -> None:
    assert Life(limits=ONE_SEAT).created().task.slot is Slot.HELD
    task = waiting().task
    assert (task.phase, task.slot, task.revision) == (Phase.PENDING, Slot.WAITING, 0)


def test_a_claim_that_finds_every_slot_taken_makes_the_task_wait_and_moves_nothing() -> None:
    before, after = rested().task, turned_away().task
    words = "Waits for a slot: another task of the same owner must end first."
    assert after == replace(before, slot=Slot.WAITING, waits=Wait.SLOT, status_message=words)


def test_a_slot_is_free_once_its_holders_deadline_has_passed() -> None:
    life = rested()
    life.meets(Claim(lease_id="mine", worker="w"), StoreCounts(slots_until_ms=life.now_ms))
    assert (life.phase, life.task.slot) == (Phase.RUNNING, Slot.HELD)


@pytest.mark.parametrize("life", [waiting, turned_away])
def test_a_task_that_waits_may_be_claimed_when_a_late_message_meets_a_free_slot(
    life: Callable[[], Life],
) -> None:
    assert life().claimed().task.slot is Slot.HELD


def test_a_queue_without_a_limit_has_no_turns() -> None:
    life = Life(limits=Limits(running_per_owner={"cpu": 1})).created()
    assert life.task.slot is None
    assert life.claimed().task.slot is None


def test_a_limit_for_other_queues_holds_for_each_that_has_none_of_its_own() -> None:
    limits = Limits(running_per_owner={"gpu": 1, OTHER_QUEUES: 8})
    assert [limits.concurrency_limit(queue) for queue in ("gpu", "cpu", "disk")] == [1, 8, 8]


@pytest.mark.parametrize("life", [waiting, turned_away])
def test_a_limit_that_was_lifted_lets_all_go_that_wait(life: Callable[[], Life]) -> None:
    lived = life()
    lived.limits = Limits()
    lived.goes(GrantSlot())
    assert lived.claimed().task.slot is None


def test_a_called_task_needs_no_other_slot_whoever_has_taken_one_meanwhile() -> None:
    life = waiting()
    life.goes(GrantSlot())
    life.meets(Claim(lease_id="mine", worker="w"), taken(life, HOUR))
    assert life.phase is Phase.RUNNING


def test_a_call_gives_a_slot_and_all_of_the_patience_and_moves_nothing() -> None:
    life = waiting().passes(HOUR)
    task = life.goes(GrantSlot())
    assert (task.slot, task.dispatched_ms, task.revision) == (Slot.HELD, life.now_ms, 0)
    assert task.deadline_ms == life.now_ms + life.policy.queue_timeout_ms


def test_a_call_is_refused_while_every_slot_is_taken() -> None:
    life = waiting()
    refusal(life.meets(GrantSlot(), taken(life, 1)), ConcurrencyLimitReached)
    assert life.task.slot is Slot.WAITING


def test_only_a_task_that_waits_for_its_turn_is_called_and_only_once() -> None:
    refusal(pending().meets(GrantSlot()), InvalidTransition)
    life = waiting()
    life.goes(GrantSlot())
    refusal(life.meets(GrantSlot()), InvalidTransition)


def test_no_message_is_sent_again_for_a_task_that_waits_for_its_turn() -> None:
    refusal(waiting().passes(HOUR).meets(Redispatch()), InvalidTransition)


def test_a_task_whose_turn_did_not_come_in_time_fails_and_does_not_blame_the_workers() -> None:
    task = waiting().passes(DAY).goes(DeadlinePassed())
    assert task.failure is not None and task.failure.kind is FailureKind.QUEUE_TIMEOUT
    assert "slot" in task.failure.message and "worker" not in task.failure.message


def test_a_task_that_waits_for_its_turn_can_be_cancelled() -> None:
    task = waiting().goes(Cancel())
    assert (task.phase, task.slot) == (Phase.CANCELLED, None)


@pytest.mark.parametrize(
    "event",
    [complete, fail, retry, EXAMPLES[RequestInput], EXAMPLES[Sleep], EXAMPLES[Cancel]],
    ids=["complete", "fail", "retry", "ask", "sleep", "cancel"],
)
def test_whoever_ends_its_attempt_gives_its_slot_back(event: Callable[[Life], Event]) -> None:
    life = seated()
    assert life.goes(event(life)).slot is None


@pytest.mark.parametrize(
    "event",
    [
        lambda life: Release(lease_id=life.lease_id),
        lambda life: Release(lease_id=life.lease_id, lost=True),
        lambda _: Reap(),
    ],
    ids=["release", "lost", "reap"],
)
def test_an_attempt_that_was_interrupted_goes_on_before_the_owners_others_begin(
    event: Callable[[Life], Event],
) -> None:
    life = seated()
    task = life.passes(10 * SECOND).goes(event(life))
    assert (task.phase, task.slot) == (Phase.PENDING, Slot.HELD)


# --- redispatch -------------------------------------------------------------------------------------


def test_a_redispatch_is_remembered_and_moves_nothing() -> None:
    life = pending().passes(MINUTE)
    task = life.goes(Redispatch())
    assert (task.dispatched_ms, task.redispatches) == (life.now_ms, 1)
    assert (task.revision, task.updated_ms) == (0, START_MS)


def test_another_redispatch_comes_no_sooner_than_the_backoff_allows() -> None:
    life = pending()
    life.goes(Redispatch())
    refusal(life.meets(Redispatch()), InvalidTransition)
    refusal(life.passes(redispatch_backoff_ms(1) - 1).meets(Redispatch()), InvalidTransition)
    assert life.passes(1).goes(Redispatch()).redispatches == 2


def test_a_task_that_is_not_due_is_not_dispatched() -> None:
    life = running()
    life.goes(Sleep(lease_id=life.lease_id, delay_ms=MINUTE))
    refusal(life.meets(Redispatch()), InvalidTransition)


def test_a_claim_forgets_the_redispatches() -> None:
    life = pending()
    life.goes(Redispatch())
    assert life.claimed().task.redispatches == 0


# --- tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrow", "scenario"),
    [(arrow, scenario) for arrow, scenario in ARROWS.items() if arrow[2] is not None],
    ids=[f"{s or 'gone'}-{e.__name__}-{t}" for s, e, t in ARROWS if t is not None],
)
def test_a_repeated_event_is_recognised_by_its_token(
    arrow: tuple[Phase | None, type[Event], Phase | None], scenario: Scenario
) -> None:
    life = scenario[0]()
    event = scenario[1](life)
    decision = life.meets(event)
    assert isinstance(decision, Applied)
    after = life.record
    if not decision.log:
        return  # a repetition of what moves nothing is harmless, and has no line that it could be known by

    repeated = life.meets(event)

    assert isinstance(repeated, Replayed)
    assert repeated.entry == decision.log[-1]
    assert repeated.task == life.task
    assert life.record == after


def test_a_token_is_recognised_after_others_have_moved_the_task() -> None:
    life = pending()
    claim = Claim(lease_id="mine", worker="w")
    life.goes(claim)
    life.goes(Cancel())
    repeated = life.meets(claim)
    assert isinstance(repeated, Replayed)
    assert repeated.entry is not None and repeated.task is not None
    assert (repeated.entry.target, repeated.task.phase) == (Phase.RUNNING, Phase.CANCELLED)


def test_a_repeated_creation_finds_the_task_that_it_made() -> None:
    life = Life()
    event = create()
    life.goes(event)
    repeated = life.meets(event, StoreCounts(owner_live=10**9))
    assert isinstance(repeated, Replayed)
    assert repeated.task_id == "task"


def test_a_creation_never_overwrites_a_record_that_has_expired_but_is_still_stored() -> None:
    event = create()
    life = Life()
    life.goes(event)
    life.goes(Cancel())
    life.passes(LONG)
    assert isinstance(life.meets(event), Replayed)
    refusal(life.meets(create()), InvalidTransition)


def test_deciding_leaves_what_it_was_given_untouched() -> None:
    life = parked()
    before = life.task
    decide(life.task, answers("a"), life.now_ms, log=life.record.log if life.record else ())
    assert life.task == before
    assert set(life.task.inputs) == {"a", "b"}


# --- fix -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", list(Phase))
def test_a_sound_record_is_not_mended(phase: Phase) -> None:
    life = IN_PHASE[phase]()
    refusal(life.meets(fix(result=phase is Phase.COMPLETED)), InvalidTransition)


def test_a_completed_task_whose_result_is_lost_fails_and_is_kept_long_enough_to_be_read() -> None:
    life = completed().passes(MINUTE)
    task = life.goes(fix())
    assert task.failure is not None and task.failure.kind is FailureKind.DAMAGED
    assert "result was lost" in task.failure.message
    assert task.expires_ms - life.now_ms >= task.policy.retention_ms


def test_a_mended_task_never_outlives_its_cap() -> None:
    life = completed()
    damaged_late = replace(life.task, expires_ms=life.task.created_ms + life.policy.max_lifetime_ms)
    assert life.record is not None
    life.record = replace(life.record, task=damaged_late)
    life.passes(life.policy.max_lifetime_ms - 1)
    assert ttl_ms(life.goes(fix())) == life.policy.max_lifetime_ms


def test_what_does_not_belong_to_an_end_is_let_go_and_the_end_stands() -> None:
    life = damaged(completed, lease=LEASE, failure=FAILURE, journal_length=3)()
    task = life.goes(fix(result=True, journal=1))
    assert (task.phase, task.lease, task.failure) == (Phase.COMPLETED, None, None)
    assert task.journal_length == 1


@pytest.mark.parametrize("changes", [{"journal_length": 1}, {"failure": FAILURE}])
def test_a_live_task_that_contradicts_itself_fails_with_the_reason(changes: dict[str, Any]) -> None:
    task = damaged(running, **changes)().goes(fix())
    assert task.failure is not None and task.failure.kind is FailureKind.DAMAGED
    assert task.lease is None and task.journal_length == 0


# --- what a task waits for ------------------------------------------------------------------------------


def test_a_task_says_that_it_waits_for_a_worker_until_one_takes_it() -> None:
    life = pending()
    assert life.task.status_message == "Waits for a worker."
    life.goes(EXAMPLES[Claim](life))
    assert life.task.status_message is None
    assert life.task.waits is None


def test_a_task_says_that_it_waits_for_a_slot_until_it_is_granted_one() -> None:
    life = waiting()
    assert life.task.status_message == "Waits for a slot: another task of the same owner must end first."
    life.goes(GrantSlot())
    assert life.task.status_message == "Waits for a worker."


@pytest.mark.parametrize(
    ("waits", "words"),
    [
        (Wait.NO_WORKER, "takes the queue"),
        (Wait.NO_TOOL, "no worker has the tool"),
        (Wait.REMOVED, "was removed"),
    ],
)
def test_what_was_found_is_said_once_and_told_to_whoever_follows_the_task(waits: Wait, words: str) -> None:
    life = pending()
    before = life.task
    after = life.goes(ExplainWait(waits=waits))
    assert words in str(after.status_message)
    assert after.revision == before.revision + 1
    assert (after.phase, after.deadline_ms, after.due_ms) == (
        Phase.PENDING,
        before.deadline_ms,
        before.due_ms,
    )
    refusal(life.meets(ExplainWait(waits=waits)), InvalidTransition)
    after = life.goes(ExplainWait(waits=Wait.QUEUED))
    assert after.status_message == "Waits for a worker."
    life.goes(EXAMPLES[Claim](life))
    assert life.task.status_message is None


def test_what_a_task_says_of_its_last_attempt_stays_while_workers_can_take_it() -> None:
    life = running()
    life.passes(10 * SECOND)
    life.goes(Reap())
    assert "Runs again" in str(life.task.status_message)
    refusal(life.meets(ExplainWait(waits=Wait.QUEUED)), InvalidTransition)
    assert "no worker has the tool" in str(life.goes(ExplainWait(waits=Wait.NO_TOOL)).status_message)


def test_nothing_is_said_of_a_task_that_waits_for_no_worker() -> None:
    for life in (waiting(), running()):
        refusal(life.meets(ExplainWait(waits=Wait.NO_TOOL)), InvalidTransition)
    asleep = running()
    asleep.goes(Sleep(lease_id=asleep.lease_id, delay_ms=SECOND))
    refusal(asleep.meets(ExplainWait(waits=Wait.NO_TOOL)), InvalidTransition)
    asleep.passes(SECOND)
    refusal(asleep.meets(ExplainWait(waits=Wait.NO_TOOL)), InvalidTransition)
    asleep.goes(Redispatch())
    asleep.goes(ExplainWait(waits=Wait.NO_TOOL))


def test_a_message_that_a_worker_dropped_is_replaced_at_once_and_only_once() -> None:
    life = pending()
    dropped_ms = life.task.dispatched_ms
    life.passes(1)
    life.goes(Redispatch(dropped_ms=dropped_ms))
    refusal(life.meets(Redispatch(dropped_ms=dropped_ms)), InvalidTransition)
    life.passes(1)
    again = life.goes(Redispatch(dropped_ms=life.task.dispatched_ms))
    assert again.redispatches == 0
    assert again.dispatched_ms == dropped_ms + 2


# --- polling ------------------------------------------------------------------------------------------------


def test_the_interval_between_polls_grows_while_a_task_does_not_move_within_the_bounds_of_its_tool() -> None:
    policy = Policy(poll_interval_ms=2 * SECOND, max_poll_interval_ms=6 * SECOND)
    life = Life()
    life.meets(replace(create(), policy=policy))

    def told_after(ms: int) -> int:
        seen = effective(life.task, life.task.updated_ms + ms)
        assert seen is not None
        return poll_interval_ms(seen)

    assert told_after(0) == told_after(40 * SECOND) == 2 * SECOND
    assert told_after(100 * SECOND) == 5 * SECOND
    assert told_after(HOUR) == 6 * SECOND
