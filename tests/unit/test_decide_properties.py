"""What holds for every life a task can have: random events, at random times, some of them repeated or forged.

The default run is quick; `HYPOTHESIS_PROFILE=thorough` looks at a hundred times as many lives.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st

from tasks_service.domain.decide import (
    TRANSITIONS,
    Applied,
    Decision,
    Refused,
    StoreCounts,
    decide,
    effective,
    kept_until_ms,
)
from tasks_service.domain.events import (
    AnswerInput,
    CallerLeft,
    CallerReturned,
    Cancel,
    CancelByOperator,
    Checkpoint,
    Claim,
    CompleteWithResult,
    DeadlinePassed,
    Event,
    Expire,
    ExplainWait,
    FailWithError,
    GrantSlot,
    MakeVisible,
    Question,
    Reap,
    Redispatch,
    Release,
    Renew,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from tasks_service.domain.limits import Limits
from tasks_service.domain.task import (
    MINUTE,
    SECOND,
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Phase,
    Policy,
    Progress,
    Slot,
    Task,
    TaskRecord,
    TaskStatus,
    Wait,
)
from tests.unit.life import YES, Life, create, fold

EXAMPLES = {"quick": 60, "thorough": 6_000}[os.environ.get("HYPOTHESIS_PROFILE", "quick")]
PATIENT = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

LIMITS = Limits(
    result_bytes=40,
    variables_bytes=60,
    status_message_bytes=40,
    answers_bytes=60,
    journal_bytes=200,
    journal_entries=8,
    open_inputs=2,
    running_per_owner={"gpu": 1},
)
KEYS = ("a", "b", "c", "d", "e")


class Moment:
    """One event in a life: what was stored, what was decided, what is stored then."""

    def __init__(
        self, before: TaskRecord | None, now_ms: int, event: Event, life: Life, counts: StoreCounts
    ) -> None:
        self.before, self.now_ms, self.event, self.counts = before, now_ms, event, counts
        self.decision = life.meets(event, counts)
        self.after = life.record

    def __repr__(self) -> str:
        phase = "gone" if self.after is None else self.after.task.phase
        return f"{self.now_ms}: {type(self.event).__name__} {type(self.decision).__name__} -> {phase}"


History = list[Moment]


# --- lives ------------------------------------------------------------------------------------------

policies = st.builds(
    Policy,
    ttl_ms=st.sampled_from([0, MINUTE, 9 * MINUTE]),
    retention_ms=st.sampled_from([0, 30 * SECOND]),
    queue_timeout_ms=st.sampled_from([5 * SECOND, MINUTE]),
    timeout_ms=st.sampled_from([5 * SECOND, MINUTE]),
    question_ms=st.sampled_from([5 * SECOND, MINUTE]),
    max_lifetime_ms=st.sampled_from([2 * MINUTE, 10 * MINUTE]),
    lease_ms=st.just(10 * SECOND),
    max_attempts=st.integers(1, 3),
)
steps_in_time = st.sampled_from(
    [-2 * SECOND, 0, 0, 0, 1, SECOND, 5 * SECOND, 12 * SECOND, MINUTE, 5 * MINUTE]
)
values = st.sampled_from([JsonText("1"), JsonText('"yes"'), JsonText('"' + "x" * 50 + '"')])
key_sets = st.lists(st.sampled_from(KEYS), max_size=3, unique=True)
messages = st.one_of(st.none(), st.text(max_size=60))
delays = st.sampled_from([-SECOND, 0, SECOND, MINUTE])
entries = st.builds(
    JournalEntry, kind=st.just(EntryKind.STEP), name=st.sampled_from(KEYS), digest=st.just("d"), value=values
)
failures = st.builds(
    Failure,
    kind=st.just(FailureKind.AUTHOR),
    message=st.text(max_size=60),
    data=st.one_of(st.none(), values),
)


questions = st.builds(
    Question,
    request=st.just(JsonText("{}")),
    open_ms=st.sampled_from([None, SECOND, 20 * SECOND]),
    default=st.one_of(st.none(), values),
)
slots = st.sampled_from([-MINUTE, -MINUTE, MINUTE])
"""For how long all slots of the owner are taken."""

HELD = "held"
"""Stands for the lease that is held when the event happens."""

held = st.just(HELD)
endings = st.one_of(
    st.builds(CompleteWithResult, lease_id=held, result=values, is_error=st.booleans(), message=messages),
    st.builds(FailWithError, lease_id=held, failure=failures),
)
worker_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Renew, lease_id=held),
    st.builds(
        Checkpoint,
        lease_id=held,
        variables=st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), values), max_size=2),
        progress=st.one_of(st.none(), st.builds(Progress, current=st.just(1.0), message=messages)),
        step=st.one_of(st.none(), entries),
        step_index=st.sampled_from([0, 0, -1, 1]),
    ),
    st.builds(
        RequestInput,
        lease_id=held,
        inputs=st.dictionaries(st.sampled_from(KEYS), questions, max_size=3),
        message=messages,
    ),
    st.builds(Sleep, lease_id=held, delay_ms=delays, timer=st.one_of(st.none(), entries)),
    st.builds(Retry, lease_id=held, delay_ms=delays, otherwise=endings, message=messages),
    st.builds(Release, lease_id=held, lost=st.booleans()),
    endings,
)
claims: st.SearchStrategy[Event] = st.builds(Claim, lease_id=held, worker=st.just("w"))
answering: st.SearchStrategy[Event] = key_sets.map(lambda keys: AnswerInput(answers=dict.fromkeys(keys, YES)))
other_events: st.SearchStrategy[Event] = st.one_of(
    claims,
    answering,
    st.builds(MakeVisible),
    st.builds(CallerLeft, within_ms=st.sampled_from([SECOND, MINUTE])),
    st.builds(CallerReturned),
    st.builds(Reap),
    st.builds(DeadlinePassed),
    st.builds(Expire),
    st.builds(Redispatch),
    st.builds(GrantSlot),
    st.builds(ExplainWait, waits=st.sampled_from(Wait), sends=st.booleans()),
    st.builds(Cancel),
    st.builds(CancelByOperator),
    st.builds(replace, policies.map(create), visible=st.booleans()),
)
LIKELY = {Phase.PENDING: claims, Phase.RUNNING: worker_events, Phase.PARKED: answering}


def bound(event: Event, life: Life) -> Event:
    """The event as it happens in this life: its lease and its place in the journal are the true ones."""
    if isinstance(event, Claim):
        return replace(event, lease_id=f"lease-{life.task.claims + 1}")
    if isinstance(event, Checkpoint):
        event = replace(event, step_index=max(life.task.journal_length + event.step_index, 0))
    return replace(event, lease_id=life.lease_id) if isinstance(event, WorkerEvent) else event


@st.composite
def histories(draw: st.DrawFn) -> History:
    life = Life(draw(policies), LIMITS)
    event: Event = replace(create(life.policy), visible=draw(st.booleans()))
    happened: list[Event] = []
    moments: History = []
    for _ in range(draw(st.integers(1, 30))):
        happened.append(event)
        counts = StoreCounts(slots_until_ms=life.now_ms + draw(slots))
        moments.append(Moment(life.record, life.now_ms, event, life, counts))
        life.passes(draw(steps_in_time))
        choice = draw(st.integers(0, 9))
        if choice == 0:
            event = draw(st.sampled_from(happened))
        elif choice == 1:
            event = draw(worker_events)
        elif choice <= 3 or life.record is None or life.phase not in LIKELY:
            event = draw(other_events)
        elif life.task.slot is Slot.WAITING:
            event = draw(st.one_of(st.builds(GrantSlot), claims))
        else:
            event = draw(LIKELY[life.phase])
        if choice > 1 and life.record is not None:
            event = bound(event, life)
    return moments


def stored(history: History) -> list[TaskRecord]:
    return [moment.after for moment in history if moment.after is not None]


def moves(history: History) -> list[tuple[Task, Task]]:
    return [(m.before.task, m.after.task) for m in history if m.before is not None and m.after is not None]


@pytest.mark.parametrize("phase", list(Phase))
def test_the_random_lives_come_through_every_phase(phase: Phase) -> None:
    def comes_through(history: History) -> bool:
        return any(record.task.phase is phase for record in stored(history))

    looking = settings(PATIENT, max_examples=2_000, phases=[HypothesisPhase.generate])
    assert find(histories(), comes_through, settings=looking)


@pytest.mark.parametrize("slot", list(Slot))
def test_the_random_lives_come_to_every_turn_while_pending(slot: Slot) -> None:
    def comes_to(history: History) -> bool:
        return any((r.task.phase, r.task.slot) == (Phase.PENDING, slot) for r in stored(history))

    looking = settings(PATIENT, max_examples=2_000, phases=[HypothesisPhase.generate])
    assert find(histories(), comes_to, settings=looking)


# --- what every stored record is ----------------------------------------------------------------------


@PATIENT
@given(histories())
def test_completed_if_and_only_if_there_is_a_result(history: History) -> None:
    for record in stored(history):
        assert (record.task.status is TaskStatus.COMPLETED) == (record.result is not None)


@PATIENT
@given(histories())
def test_failed_if_and_only_if_there_is_an_error(history: History) -> None:
    for record in stored(history):
        assert (record.task.status is TaskStatus.FAILED) == (record.task.failure is not None)


@PATIENT
@given(histories())
def test_input_required_if_and_only_if_a_question_is_open(history: History) -> None:
    for record in stored(history):
        assert (record.task.status is TaskStatus.INPUT_REQUIRED) == bool(record.task.inputs)


@PATIENT
@given(histories())
def test_leased_if_and_only_if_running_and_never_past_the_attempt(history: History) -> None:
    for record in stored(history):
        task = record.task
        assert (task.phase is Phase.RUNNING) == (task.lease is not None)
        if task.lease is not None:
            assert task.lease.until_ms <= task.deadline_ms


@PATIENT
@given(histories())
def test_every_task_that_runs_has_a_slot_and_none_that_is_parked_or_over_does(history: History) -> None:
    for record in stored(history):
        task = record.task
        if task.phase is Phase.RUNNING:
            assert task.slot is Slot.HELD
        elif task.phase is not Phase.PENDING:
            assert task.slot is None


@PATIENT
@given(histories())
def test_nobody_begins_while_every_slot_is_taken_unless_it_has_one(history: History) -> None:
    for moment in history:
        if isinstance(moment.event, Claim) and moment.now_ms < moment.counts.slots_until_ms:
            began = moment.after is not None and moment.after.task.claims
            had = moment.before is not None and moment.before.task.slot is Slot.HELD
            assert had or moment.before is None or began == moment.before.task.claims


@PATIENT
@given(histories())
def test_tries_never_exceed_max_attempts_nor_runs(history: History) -> None:
    for record in stored(history):
        assert 0 <= record.task.attempts <= min(record.task.policy.max_attempts, record.task.claims)


@PATIENT
@given(histories())
def test_every_life_is_finite(history: History) -> None:
    for record in stored(history):
        task, policy = record.task, record.task.policy
        assert task.deadline_ms + policy.retention_ms <= task.created_ms + policy.max_lifetime_ms
        assert task.expires_ms <= task.created_ms + policy.max_lifetime_ms
        if task.status.is_final and task.visible:
            assert task.deadline_ms + policy.retention_ms <= task.expires_ms


@PATIENT
@given(histories())
def test_the_end_of_a_life_is_fixed_when_the_task_is_final_and_not_before(history: History) -> None:
    for record in stored(history):
        assert bool(record.task.expires_ms) is record.task.status.is_final


@PATIENT
@given(histories())
def test_a_task_is_kept_for_as_long_as_a_client_ever_read(history: History) -> None:
    promised_ms = latest_ms = 0
    for moment in history:
        if moment.now_ms < latest_ms:
            return  # a failover has put the clock back, and reads show an earlier age
        latest_ms = moment.now_ms
        if moment.after is not None and moment.after.task.visible:
            seen = effective(moment.after.task, moment.now_ms)
            assert seen is not None or moment.now_ms >= promised_ms
            if seen is not None:
                assert kept_until_ms(seen) >= promised_ms
                promised_ms = kept_until_ms(seen)
        if moment.after is None:
            assert moment.now_ms >= promised_ms


@PATIENT
@given(histories())
def test_the_journal_holds_what_the_task_says(history: History) -> None:
    for record in stored(history):
        assert len(record.journal) == record.task.journal_length <= LIMITS.journal_entries
        assert sum(len(entry.value.encode()) for entry in record.journal) == record.task.journal_bytes


@PATIENT
@given(histories())
def test_a_questions_key_is_asked_once_and_answered_once(history: History) -> None:
    for record in stored(history):
        used = record.task.used_keys
        answered = [entry.name for entry in record.journal if entry.kind is EntryKind.ANSWER]
        assert len(set(used)) == len(used)
        assert len(set(answered)) == len(answered)
        assert set(answered) | set(record.task.inputs) <= set(used)
        assert not set(answered) & set(record.task.inputs)


# --- the log ------------------------------------------------------------------------------------------


@PATIENT
@given(histories())
def test_the_log_counts_from_zero_without_gap_or_duplicate(history: History) -> None:
    for record in stored(history):
        assert [line.revision for line in record.log] == list(range(record.task.revision + 1))
        assert len({line.token for line in record.log}) == len(record.log)


@PATIENT
@given(histories())
def test_the_log_is_one_walk_along_the_arrows_of_the_table(history: History) -> None:
    for record in stored(history):
        phase: Phase | None = None
        for line in record.log:
            assert line.source is phase
            assert any(line.target in targets for targets in TRANSITIONS[phase].values())
            phase = line.target
        assert record.task.phase is phase


@PATIENT
@given(histories())
def test_each_line_of_the_log_is_an_arrow_of_its_own_event(history: History) -> None:
    for moment in history:
        if not isinstance(moment.decision, Applied):
            continue
        for line in moment.decision.log:
            by = type(moment.event) if line.token == moment.event.token else DeadlinePassed
            assert line.target in TRANSITIONS[line.source][by]


@PATIENT
@given(histories())
def test_runs_are_the_claims_in_the_log(history: History) -> None:
    for record in stored(history):
        claims = [line for line in record.log if (line.source, line.target) == (Phase.PENDING, Phase.RUNNING)]
        assert len(claims) == record.task.claims


# --- what never goes back -------------------------------------------------------------------------------


@PATIENT
@given(histories())
def test_there_is_no_way_out_of_a_final_phase(history: History) -> None:
    for moment in history:
        if moment.before is None or not moment.before.task.status.is_final or moment.after is None:
            continue
        assert replace(moment.after.task, visible=True) == replace(moment.before.task, visible=True)
        assert moment.after.result == moment.before.result
        assert moment.after.log == moment.before.log


@PATIENT
@given(histories())
def test_only_a_live_task_without_a_handle_waits_for_its_caller(history: History) -> None:
    for record in stored(history):
        if record.task.return_by_ms:
            assert not record.task.visible
            assert not record.task.status.is_final


@PATIENT
@given(histories())
def test_lifetimes_only_grow(history: History) -> None:
    for before, after in moves(history):
        assert after.expires_ms >= before.expires_ms


@PATIENT
@given(histories())
def test_the_last_update_never_goes_back_and_moves_only_with_the_task(history: History) -> None:
    for before, after in moves(history):
        assert after.updated_ms >= before.updated_ms
        if after.revision == before.revision:
            assert after.updated_ms == before.updated_ms


@PATIENT
@given(histories())
def test_runs_and_revisions_never_go_back(history: History) -> None:
    for before, after in moves(history):
        assert after.claims >= before.claims
        assert after.revision >= before.revision


@PATIENT
@given(histories())
def test_a_task_is_gone_only_once_it_was_final_and_past_its_time(history: History) -> None:
    for moment in history:
        if moment.before is not None and moment.after is None:
            ended = effective(moment.before.task, moment.before.task.deadline_ms)
            assert isinstance(moment.event, Expire)
            assert moment.before.task.status.is_final or ended is None or ended.status.is_final
            assert moment.now_ms >= moment.before.task.expires_ms


# --- who may write, and how often -----------------------------------------------------------------------


@PATIENT
@given(histories())
def test_nothing_that_a_foreign_lease_writes_is_applied(history: History) -> None:
    for moment in history:
        if not isinstance(moment.event, WorkerEvent) or moment.before is None:
            continue
        lease = moment.before.task.lease
        if lease is None or lease.lease_id != moment.event.lease_id:
            assert not isinstance(moment.decision, Applied)


def decided_again(moment: Moment, record: TaskRecord | None) -> Decision:
    task, log = (None, ()) if record is None else (record.task, record.log)
    return decide(task, moment.event, moment.now_ms, log=log, limits=LIMITS, counts=moment.counts)


@PATIENT
@given(histories())
def test_a_refused_event_changes_nothing_and_is_refused_again(history: History) -> None:
    for moment in history:
        if isinstance(moment.decision, Refused):
            assert moment.after == moment.before
            again = decided_again(moment, moment.after)
            assert isinstance(again, Refused)
            assert str(again.error) == str(moment.decision.error)


@PATIENT
@given(histories())
def test_a_repeated_event_changes_nothing(history: History) -> None:
    for moment in history:
        if not isinstance(moment.decision, Applied) or isinstance(moment.event, Redispatch):
            continue
        again = decided_again(moment, moment.after)
        unchanged = fold(moment.after, again) if isinstance(again, Applied) else moment.after
        assert unchanged == moment.after


# --- time -------------------------------------------------------------------------------------------------


@PATIENT
@given(histories(), st.lists(st.integers(0, 15 * MINUTE), min_size=2, max_size=2).map(sorted))
def test_looking_early_and_then_late_is_looking_late(history: History, waits: list[int]) -> None:
    for record in stored(history):
        early_ms, late_ms = (record.task.created_ms + wait for wait in waits)
        early, late = effective(record.task, early_ms), effective(record.task, late_ms)
        assert (None if early is None else effective(early, early_ms)) == early
        assert (None if early is None else effective(early, late_ms)) == late


@PATIENT
@given(histories())
def test_what_a_sweep_writes_is_what_readers_saw(history: History) -> None:
    for moment in history:
        if isinstance(moment.event, DeadlinePassed) and isinstance(moment.decision, Applied):
            assert moment.before is not None and moment.after is not None
            seen = effective(moment.before.task, moment.now_ms)
            assert seen is None or seen == moment.after.task


@PATIENT
@given(histories())
def test_no_event_finds_a_task_past_its_deadline_alive(history: History) -> None:
    for moment in history:
        if isinstance(moment.decision, Applied) and moment.after is not None:
            settled = effective(moment.after.task, moment.now_ms)
            assert settled is None or settled.deadline_ms > moment.now_ms or settled.status.is_final


@PATIENT
@given(histories())
def test_every_live_task_ends_by_time_alone(history: History) -> None:
    for record in stored(history):
        end_ms = record.task.created_ms + record.task.policy.max_lifetime_ms
        assert effective(record.task, end_ms) is None


def test_the_same_seed_of_events_is_decided_the_same_way() -> None:
    def play() -> TaskRecord | None:
        life = Life(Policy(), LIMITS)
        script: list[Callable[[], Event]] = [
            lambda: replace(create(), token="1"),
            lambda: Claim(token="2", lease_id="x", worker="w"),
            lambda: Cancel(token="3"),
        ]
        for event in script:
            life.meets(event())
        return life.record

    assert play() == play()
