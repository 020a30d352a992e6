"""What every store does, whichever it is: the same tests everywhere.

In memory; and on one Redis, on the master of sentinels, on clusters, each both blocking and on asyncio.
"""

from __future__ import annotations

import pytest

from tasks_service.domain.decide import ttl_ms
from tasks_service.domain.errors import (
    IdempotencyConflict,
    InvalidTransition,
    LeaseLost,
    LimitExceeded,
    OfAnotherService,
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
    CompleteWithResult,
    DeadlinePassed,
    Expire,
    FailWithError,
    MakeVisible,
    Question,
    Reap,
    Redispatch,
    Release,
    Renew,
    RequestInput,
    Retry,
    Sleep,
)
from tasks_service.domain.indexes import Due
from tasks_service.domain.limits import BLOCK_BYTES, Limits
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.domain.task import (
    HOUR,
    MINUTE,
    SECOND,
    ClientCapability,
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Owner,
    Phase,
    Policy,
    Progress,
    TaskStatus,
    ToolException,
    new_token,
)
from tests.kit.factories import ALICE, BOB, RESULT, creation
from tests.kit.store_adapter import counts
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until

from .conftest import Face, FaceMaker

ANSWER = JsonText('{"ok":true}')


def assert_consistent(face: Face) -> None:
    for task_id in ids_of(face.maintenance):
        assert face.maintenance.index_problems(task_id) == []


def test_a_created_task_is_read_back_by_its_owner(face: Face) -> None:
    task = face.create(
        capabilities=frozenset(ClientCapability),
        era="2026-07-28",
        trace="00-1",
        service="Shop",
        parent="00ab",
    )
    assert face.store.get(ALICE, task.task_id).task == task
    assert task.phase is Phase.PENDING
    assert_consistent(face)


@pytest.mark.parametrize(
    "task_id", ["", "x", "zz" + "a" * 24, "00" + "b" * 24, "00" * 500, "ff", "{x}", "00é", "-1abc", "+1abc"]
)
def test_unknown_and_malformed_ids_are_not_found(face: Face, task_id: str) -> None:
    with pytest.raises(TaskNotFound):
        face.store.get(ALICE, task_id)
    with pytest.raises(TaskNotFound):
        face.store.apply(ALICE, task_id, Cancel())
    with pytest.raises(TaskNotFound):
        face.store.claim(task_id, Claim(lease_id="l", worker="w"))


def test_a_foreign_task_is_not_found_by_any_method(face: Face) -> None:
    task = face.create(ALICE)
    with pytest.raises(TaskNotFound):
        face.store.get(BOB, task.task_id)
    with pytest.raises(TaskNotFound):
        face.store.apply(BOB, task.task_id, Cancel())
    assert face.store.page(BOB).tasks == ()
    assert face.store.get(ALICE, task.task_id).task.phase is Phase.PENDING


def test_a_hidden_task_is_seen_only_by_those_who_ask_for_hidden_ones(face: Face) -> None:
    task = face.create(visible=False)
    with pytest.raises(TaskNotFound):
        face.store.get(ALICE, task.task_id)
    with pytest.raises(TaskNotFound):
        face.store.apply(ALICE, task.task_id, Cancel())
    assert face.store.page(ALICE).tasks == ()
    assert face.store.get(ALICE, task.task_id, hidden=True).task.task_id == task.task_id
    face.store.apply(ALICE, task.task_id, MakeVisible(), hidden=True)
    assert face.store.get(ALICE, task.task_id).task.visible


def test_a_task_whose_caller_stays_away_is_cancelled_for_every_reader_and_then_for_good(face: Face) -> None:
    task = face.create(visible=False)
    face.store.apply(ALICE, task.task_id, CallerLeft(within_ms=SECOND), hidden=True)
    assert face.maintenance.inspect(task.task_id).task.return_by_ms == face.clock.now_ms + SECOND
    assert_consistent(face)

    face.clock.pass_ms(SECOND)

    read = face.store.get(ALICE, task.task_id, hidden=True).task
    assert read.status is TaskStatus.CANCELLED
    with pytest.raises(InvalidTransition):
        face.store.claim(task.task_id, Claim(lease_id="l", worker="w"))
    assert face.maintenance.due(Due.OVERDUE, limit=10) == [task_hash(task.task_id)]
    assert face.maintenance.apply_sweep(task.task_id, DeadlinePassed()) == read
    assert_consistent(face)


def test_a_task_whose_caller_comes_back_in_time_runs_on(face: Face) -> None:
    task = face.create(visible=False)
    face.store.apply(ALICE, task.task_id, CallerLeft(within_ms=SECOND), hidden=True)

    face.store.apply(ALICE, task.task_id, CallerReturned(), hidden=True)
    face.clock.pass_ms(HOUR)

    assert face.claim(task).task.phase is Phase.RUNNING
    assert_consistent(face)


def test_a_completed_task_has_its_result_and_its_whole_history(face: Face) -> None:
    task = face.finish()
    view = face.store.get(ALICE, task.task_id)
    assert (view.task.status, view.result) == (TaskStatus.COMPLETED, RESULT)
    record = face.maintenance.inspect(task.task_id)
    assert record.arguments == '{"x":1}'
    assert [line.target for line in record.log] == [Phase.PENDING, Phase.RUNNING, Phase.COMPLETED]
    assert [line.revision for line in record.log] == [0, 1, 2]
    assert_consistent(face)


def test_a_claim_brings_arguments_and_journal(face: Face) -> None:
    task, lease_id = face.run()
    step = JournalEntry(kind=EntryKind.STEP, name="load", digest="x", value=JsonText("[1]"))
    face.store.commit(task.task_id, Checkpoint(lease_id=lease_id, step=step, step_index=0))
    face.store.commit(task.task_id, Release(lease_id=lease_id))
    claimed = face.claim(task)
    assert claimed.arguments == '{"x":1}'
    assert claimed.journal == (step,)
    assert claimed.task.claims == 2


@pytest.mark.parametrize(
    ("recorded", "services", "is_claimed"),
    [
        ("Shop", {"Shop"}, True),
        ("Shop", {"Store", "Shop"}, True),
        ("Shop", {"Office"}, False),
        ("", {"Office"}, True),
        ("Shop", set(), True),
    ],
)
def test_a_worker_claims_tasks_of_its_own_service_under_its_present_and_former_names(
    face: Face, recorded: str, services: set[str], is_claimed: bool
) -> None:
    task = face.store.create(creation(service=recorded)).task
    claim = Claim(lease_id=new_token(), worker="w", services=frozenset(services))

    if is_claimed:
        assert face.store.claim(task.task_id, claim).task.phase is Phase.RUNNING
        return
    with pytest.raises(OfAnotherService) as refusal:
        face.store.claim(task.task_id, claim)
    assert (refusal.value.service, refusal.value.queue) == (recorded, task.queue)
    assert face.maintenance.inspect(task.task_id).task.claims == 0
    assert_consistent(face)


def test_only_one_of_two_claims_gets_the_task(face: Face) -> None:
    task = face.create()
    face.claim(task)
    with pytest.raises(InvalidTransition) as refused:
        face.claim(task)
    assert refused.value.current == Phase.RUNNING


def test_a_lease_is_its_holders_until_its_last_millisecond(face: Face) -> None:
    task, lease_id = face.run()
    face.clock.pass_ms(SECOND)
    renewed = face.store.commit(task.task_id, Renew(lease_id=lease_id))
    assert renewed.lease is not None
    face.clock.pass_ms(renewed.lease.until_ms - 1 - face.clock())
    with pytest.raises(InvalidTransition):
        face.maintenance.apply_sweep(task.task_id, Reap())
    face.clock.pass_ms(1)
    reaped = face.maintenance.apply_sweep(task.task_id, Reap())
    assert reaped is not None and reaped.phase is Phase.PENDING


def test_a_stale_worker_cannot_overwrite_a_reclaimed_task(face: Face) -> None:
    task, stale = face.run()
    face.clock.pass_ms(11 * SECOND)
    face.maintenance.apply_sweep(task.task_id, Reap())
    second = face.claim(task).task
    with pytest.raises(LeaseLost) as refused:
        face.store.commit(task.task_id, CompleteWithResult(lease_id=stale, result=RESULT))
    assert refused.value.current == Phase.RUNNING
    assert face.store.get(ALICE, task.task_id).task == second


def test_the_same_event_twice_is_applied_once(face: Face) -> None:
    task, lease_id = face.run()
    done = CompleteWithResult(lease_id=lease_id, result=RESULT)
    first = face.store.commit(task.task_id, done)
    assert face.store.commit(task.task_id, done) == first
    assert len(face.maintenance.inspect(task.task_id).log) == 3


def test_a_repeated_claim_with_the_same_token_is_the_same_claim(face: Face) -> None:
    task = face.create()
    claim = Claim(lease_id=new_token(), worker="w")
    assert face.store.claim(task.task_id, claim) == face.store.claim(task.task_id, claim)


def test_a_repeated_creation_is_the_same_task(face: Face) -> None:
    event = creation()
    first = face.store.create(event)
    again = face.store.create(event)
    assert (again.task.task_id, again.replayed) == (first.task.task_id, True)
    assert counts(face.maintenance).total == 1


def test_an_idempotency_key_finds_the_task_that_it_made(face: Face) -> None:
    first = face.create(idempotency="k", request_digest="d")
    again = face.store.create(creation(idempotency="k", request_digest="d"))
    assert (again.task.task_id, again.replayed) == (first.task_id, True)
    assert face.create(BOB, idempotency="k", request_digest="d").task_id != first.task_id


def test_an_idempotency_key_finds_what_its_service_made_under_a_former_name_and_nothing_of_another(
    face: Face,
) -> None:
    first = face.create(service="Office", idempotency="k", request_digest="d")
    renamed = {"service": "Shop", "idempotency": "k", "request_digest": "d"}

    again = face.store.create(creation(former_names=frozenset({"Office", "Bureau"}), **renamed))

    assert (again.task.task_id, again.replayed) == (first.task_id, True)
    for former_names in (frozenset[str](), frozenset({"Bureau"})):
        with pytest.raises(IdempotencyConflict):
            face.store.create(creation(former_names=former_names, **renamed))


def test_an_idempotency_key_with_another_request_is_refused(face: Face) -> None:
    face.create(idempotency="k", request_digest="d")
    with pytest.raises(IdempotencyConflict):
        face.create(idempotency="k", request_digest="other")
    assert counts(face.maintenance).total == 1


def test_a_key_that_is_used_again_stays_with_its_new_task_when_the_old_one_goes(face: Face) -> None:
    policy = Policy(ttl_ms=SECOND, retention_ms=SECOND)
    first = face.finish(policy=policy, idempotency="k", request_digest="d")
    face.clock.pass_ms(first.expires_ms - face.clock())
    second = face.create(idempotency="k", request_digest="d")
    assert second.task_id != first.task_id, "the first has expired, and no sweep has removed it"
    assert face.maintenance.apply_sweep(first.task_id, Expire()) is None

    again = face.store.create(creation(idempotency="k", request_digest="d"))
    assert (again.replayed, again.task.task_id) == (True, second.task_id)


def test_cancelling_ends_the_task_and_its_worker_learns_of_it(face: Face) -> None:
    task, lease_id = face.run()
    assert face.store.apply(ALICE, task.task_id, Cancel()).status is TaskStatus.CANCELLED
    with pytest.raises(LeaseLost) as refused:
        face.store.commit(task.task_id, Renew(lease_id=lease_id))
    assert refused.value.current == Phase.CANCELLED
    with pytest.raises(InvalidTransition):
        face.store.apply(ALICE, task.task_id, Cancel())
    assert_consistent(face)


def test_a_renewal_moves_the_lease_and_nothing_that_a_client_sees(face: Face) -> None:
    task, lease_id = face.run()
    face.clock.pass_ms(5 * SECOND)
    renewed = face.store.commit(task.task_id, Renew(lease_id=lease_id))
    assert renewed.lease is not None and task.lease is not None
    assert renewed.lease.until_ms == task.lease.until_ms + 5 * SECOND
    assert (renewed.revision, renewed.updated_ms) == (task.revision, task.updated_ms)
    assert face.maintenance.due(Due.LEASES, limit=10) == []
    assert_consistent(face)


def test_variables_are_written_together_and_null_deletes(face: Face) -> None:
    task, lease_id = face.run()
    face.store.commit(
        task.task_id, Checkpoint(lease_id=lease_id, variables={"a": JsonText("1"), "b": JsonText('"x"')})
    )
    face.store.commit(task.task_id, Checkpoint(lease_id=lease_id, variables={"a": None, "c": JsonText("[]")}))
    assert face.store.get(ALICE, task.task_id).task.variables == {"b": '"x"', "c": "[]"}
    face.store.commit(task.task_id, Checkpoint(lease_id=lease_id, variables={"b": None, "c": None}))
    assert face.store.get(ALICE, task.task_id).task.variables == {}


def test_progress_is_read_back(face: Face) -> None:
    task, lease_id = face.run()
    progress = Progress(current=3, total=10, message="reading")
    face.store.commit(task.task_id, Checkpoint(lease_id=lease_id, progress=progress))
    read = face.store.get(ALICE, task.task_id).task
    assert (read.progress, read.status_message) == (progress, "reading")


def test_too_large_a_result_is_refused_and_the_lease_stands(make_face: FaceMaker) -> None:
    face = make_face(Limits(result_bytes=10))
    task, lease_id = face.run()
    with pytest.raises(LimitExceeded):
        face.store.commit(
            task.task_id, CompleteWithResult(lease_id=lease_id, result=JsonText('"0123456789"'))
        )
    failure = Failure(kind=FailureKind.RESULT_LIMIT, message="too large")
    failed = face.store.commit(task.task_id, FailWithError(lease_id=lease_id, failure=failure))
    assert failed.failure == failure
    assert face.store.get(ALICE, task.task_id).task == failed


def test_too_large_arguments_leave_nothing_behind(make_face: FaceMaker) -> None:
    face = make_face(Limits(arguments_bytes=3))
    with pytest.raises(LimitExceeded):
        face.create()
    assert counts(face.maintenance).total == 0


def test_an_owner_has_no_more_live_tasks_than_the_quota(make_face: FaceMaker) -> None:
    face = make_face(Limits(live_per_owner=2))
    first = face.create()
    face.create()
    with pytest.raises(QuotaExceeded):
        face.create()
    face.create(BOB)
    face.store.apply(ALICE, first.task_id, Cancel())
    face.create()
    assert_consistent(face)


def test_an_owner_has_no_more_stored_than_the_quota_until_tasks_are_removed(make_face: FaceMaker) -> None:
    payload = JsonText('"' + "a" * BLOCK_BYTES + '"')
    face = make_face(Limits(stored_per_owner=4 * BLOCK_BYTES))
    first = face.create(arguments=payload)
    face.create(arguments=payload)

    with pytest.raises(QuotaExceeded) as refusal:
        face.create()
    error = refusal.value
    assert (error.maximum, error.actual, error.unit) == (4 * BLOCK_BYTES, 5 * BLOCK_BYTES, "bytes")
    face.create(BOB, arguments=payload)
    face.store.apply(ALICE, first.task_id, Cancel())
    with pytest.raises(QuotaExceeded):  # it has ended, and is still stored
        face.create()

    face.clock.pass_ms(HOUR + MINUTE)
    face.maintenance.apply_sweep(first.task_id, Expire())
    face.create(arguments=payload)
    assert_consistent(face)


def test_what_a_worker_writes_counts_for_its_owner_and_is_never_refused(make_face: FaceMaker) -> None:
    arguments, large = JsonText("{}"), JsonText('"' + "a" * 5 * BLOCK_BYTES + '"')
    face = make_face(Limits(stored_per_owner=BLOCK_BYTES))
    task, lease_id = face.run(arguments=arguments)
    step = JournalEntry(kind=EntryKind.STEP, name="s", digest="d", value=JsonText("12345"))
    noted = Checkpoint(lease_id=lease_id, variables={"v": large}, step=step)
    noted_task = face.store.commit(task.task_id, noted)
    replaced = Checkpoint(lease_id=lease_id, variables={"v": JsonText("1")}, journal_length=1)
    replaced_task = face.store.commit(task.task_id, replaced)
    result = CompleteWithResult(lease_id=lease_id, result=large, journal_length=1)
    done = face.store.commit(task.task_id, result)

    assert noted_task.stored_bytes == len("{}") + len("12345") + len('"v":,') + len(large)
    assert replaced_task.stored_bytes == len("{}") + len("12345") + len('"v":1,')
    assert done.stored_bytes == replaced_task.stored_bytes + len(large)
    with pytest.raises(QuotaExceeded) as refusal:
        face.create(arguments=arguments)
    assert refusal.value.actual == (1 + 5 + 1) * BLOCK_BYTES


def test_the_store_has_no_more_tasks_than_its_limit(make_face: FaceMaker) -> None:
    face = make_face(Limits(tasks_per_shard=2))
    face.finish()
    face.create(BOB)
    with pytest.raises(QuotaExceeded):
        face.create()


def test_a_question_parks_the_task_and_its_answer_makes_it_pending(face: Face) -> None:
    task, lease_id = face.run()
    face.outbox.sent.clear()
    question = Question(request=JsonText('{"m":1}'), digest="d")
    asked = RequestInput(lease_id=lease_id, inputs={"q": question})
    parked = face.store.commit(task.task_id, asked)
    assert (parked.status, parked.attempts) == (TaskStatus.INPUT_REQUIRED, 0)
    assert face.store.get(ALICE, task.task_id).task.inputs["q"].request == '{"m":1}'
    assert_consistent(face)
    answered = face.store.apply(ALICE, task.task_id, AnswerInput(answers={"q": ANSWER, "unknown": ANSWER}))
    assert (answered.phase, answered.inputs) == (Phase.PENDING, {})
    assert face.outbox.sent == [task.task_id]
    entry = JournalEntry(kind=EntryKind.ANSWER, name="q", digest="d", value=ANSWER)
    assert face.claim(task).journal == (entry,)
    assert_consistent(face)


def test_an_answer_that_does_not_fit_into_the_journal_leaves_the_question_open(make_face: FaceMaker) -> None:
    face = make_face(Limits(journal_bytes=10))
    task, lease_id = face.run()
    asked = RequestInput(lease_id=lease_id, inputs={"q": Question(request=JsonText("{}"))})
    face.store.commit(task.task_id, asked)
    with pytest.raises(LimitExceeded):
        face.store.apply(ALICE, task.task_id, AnswerInput(answers={"q": ANSWER}))
    assert set(face.store.get(ALICE, task.task_id).task.inputs) == {"q"}
    answered = face.store.apply(ALICE, task.task_id, AnswerInput(answers={"q": JsonText("1")}))
    assert answered.phase is Phase.PENDING


def test_a_question_key_is_never_used_again_in_a_tasks_life(face: Face) -> None:
    task = face.create()
    question = Question(request=JsonText("{}"))
    for key in ("first", "second"):
        lease_id = new_token()
        face.claim(task, lease_id)
        face.store.commit(task.task_id, RequestInput(lease_id=lease_id, inputs={key: question}))
        face.store.apply(ALICE, task.task_id, AnswerInput(answers={key: ANSWER}))
    lease_id = new_token()
    face.claim(task, lease_id)
    with pytest.raises(InvalidTransition, match="'first' was used before"):
        face.store.commit(task.task_id, RequestInput(lease_id=lease_id, inputs={"first": question}))


def test_a_question_that_nobody_answers_takes_its_default(face: Face) -> None:
    task, lease_id = face.run()
    question = Question(request=JsonText("{}"), open_ms=HOUR, default=JsonText('"no"'))
    face.store.commit(task.task_id, RequestInput(lease_id=lease_id, inputs={"q": question}))
    face.clock.pass_ms(HOUR)
    assert face.store.get(ALICE, task.task_id).task.phase is Phase.PENDING
    claimed = face.claim(task)
    assert [entry.value for entry in claimed.journal] == ['"no"']
    record = face.maintenance.inspect(task.task_id)
    assert [line.revision for line in record.log] == list(range(len(record.log)))
    assert_consistent(face)


def test_a_task_becomes_due_again_after_its_sleep_and_a_message_goes_out(face: Face) -> None:
    task, lease_id = face.run()
    face.outbox.sent.clear()
    timer = JournalEntry(kind=EntryKind.TIMER, name="t", digest="", value=JsonText("null"))
    face.store.commit(task.task_id, Sleep(lease_id=lease_id, delay_ms=HOUR, timer=timer))
    with pytest.raises(InvalidTransition):
        face.claim(task)
    assert face.maintenance.due(Due.TIMERS, limit=10) == []
    assert face.outbox.sent == []
    face.clock.pass_ms(HOUR)
    assert face.maintenance.due(Due.TIMERS, limit=10) == [task_hash(task.task_id)]
    face.maintenance.apply_sweep(task.task_id, Redispatch())
    assert face.maintenance.due(Due.TIMERS, limit=10) == []
    assert face.outbox.sent == [task.task_id]
    assert face.claim(task).journal == (timer,)
    assert_consistent(face)


def test_a_retry_waits_and_the_last_one_ends_with_the_tools_own_result(face: Face) -> None:
    task, lease_id = face.run(policy=Policy(max_attempts=2))
    own = CompleteWithResult(lease_id=lease_id, result=RESULT, is_error=True)
    face.store.commit(task.task_id, Retry(lease_id=lease_id, delay_ms=SECOND, otherwise=own))
    face.clock.pass_ms(SECOND)
    lease_id = new_token()
    face.claim(task, lease_id)
    own = CompleteWithResult(lease_id=lease_id, result=RESULT, is_error=True)
    ended = face.store.commit(task.task_id, Retry(lease_id=lease_id, delay_ms=SECOND, otherwise=own))
    assert (ended.status, ended.is_error) == (TaskStatus.COMPLETED, True)
    assert face.store.get(ALICE, task.task_id).result == RESULT


def test_a_reaped_task_runs_again_until_its_attempts_are_used_up(face: Face) -> None:
    task, _ = face.run(policy=Policy(max_attempts=2))
    face.clock.pass_ms(11 * SECOND)
    assert face.maintenance.due(Due.LEASES, limit=10) == [task_hash(task.task_id)]
    again = face.maintenance.apply_sweep(task.task_id, Reap())
    assert again is not None and again.phase is Phase.PENDING
    face.claim(task)
    face.clock.pass_ms(11 * SECOND)
    ended = face.maintenance.apply_sweep(task.task_id, Reap())
    assert ended is not None and ended.failure is not None
    assert ended.failure.kind is FailureKind.ATTEMPTS
    assert_consistent(face)


def test_a_task_that_nobody_takes_fails_when_its_patience_ends(face: Face) -> None:
    task = face.create(policy=Policy(queue_timeout_ms=HOUR))
    face.clock.pass_ms(HOUR)
    read = face.store.get(ALICE, task.task_id).task
    assert read.failure is not None and read.failure.kind is FailureKind.QUEUE_TIMEOUT
    assert face.maintenance.inspect(task.task_id).task.phase is Phase.PENDING
    assert face.maintenance.due(Due.OVERDUE, limit=10) == [task_hash(task.task_id)]
    assert face.maintenance.apply_sweep(task.task_id, DeadlinePassed()) == read
    assert face.maintenance.due(Due.OVERDUE, limit=10) == []
    assert_consistent(face)


def test_an_expired_task_is_not_found_before_and_after_its_sweep(face: Face) -> None:
    task = face.finish(idempotency="k", request_digest="d")
    face.clock.pass_ms(ttl_ms(task))
    with pytest.raises(TaskNotFound):
        face.store.get(ALICE, task.task_id)
    assert face.store.page(ALICE).tasks == ()
    assert face.maintenance.due(Due.EXPIRED, limit=10) == [task_hash(task.task_id)]
    assert face.maintenance.apply_sweep(task.task_id, Expire()) is None
    assert face.maintenance.due(Due.EXPIRED, limit=10) == []
    assert counts(face.maintenance).total == 0
    with pytest.raises(TaskNotFound):
        face.maintenance.apply_sweep(task.task_id, Expire())
    assert face.create(idempotency="k", request_digest="other").task_id != task.task_id


def test_a_task_that_expired_unswept_stays_in_sight_of_the_sweep(face: Face) -> None:
    policy = Policy(queue_timeout_ms=SECOND, ttl_ms=SECOND, retention_ms=SECOND)
    task = face.create(policy=policy)
    face.clock.pass_ms(HOUR)
    with pytest.raises(TaskNotFound):
        face.maintenance.apply_sweep(task.task_id, Reap())
    assert face.maintenance.due(Due.EXPIRED, limit=10) == []
    assert face.maintenance.due(Due.OVERDUE, limit=10) == [task_hash(task.task_id)]
    assert face.maintenance.apply_sweep(task.task_id, Expire()) is None
    assert counts(face.maintenance).total == 0


def test_pages_go_from_the_newest_to_the_oldest_without_gap_or_repetition(face: Face) -> None:
    created = []
    for number in range(7):
        created.append(face.create().task_id)
        face.clock.pass_ms(number % 2)
    face.create(visible=False)
    seen: list[str] = []
    after = None
    for _ in range(10):
        page = face.store.page(ALICE, after=after, limit=3)
        seen += [task.task_id for task in page.tasks]
        if (after := page.last) is None:
            break
    assert sorted(seen) == sorted(created)
    ages = [face.store.get(ALICE, task_id).task.created_ms for task_id in seen]
    assert ages == sorted(ages, reverse=True)


def test_tasks_of_one_millisecond_are_all_listed_however_many_they_are(face: Face) -> None:
    created = {face.create().task_id for _ in range(200)}
    seen: list[str] = []
    after = None
    while True:
        page = face.store.page(ALICE, after=after, limit=7)
        seen += [task.task_id for task in page.tasks]
        if (after := page.last) is None:
            break
    assert len(seen) == len(set(seen))
    assert set(seen) == created


def test_a_listing_goes_on_where_it_was_while_tasks_come_and_go(face: Face) -> None:
    for _ in range(6):
        face.create()
        face.clock.pass_ms(1)
    first = face.store.page(ALICE, limit=2)
    newcomer = face.create().task_id
    second = face.store.page(ALICE, after=first.last, limit=10)
    ids = [task.task_id for task in (*first.tasks, *second.tasks)]
    assert len(ids) == len(set(ids)) == 6
    assert newcomer not in ids


def test_a_pending_task_is_found_by_its_queue_until_it_is_claimed(face: Face) -> None:
    task = face.create(queue="gpu")
    assert face.maintenance.queues() == ["gpu"]
    assert face.maintenance.pending("gpu", until_ms=face.clock(), limit=10) == [task_hash(task.task_id)]
    assert face.maintenance.pending("gpu", until_ms=face.clock() - 1, limit=10) == []
    face.claim(task, dispatched_ms=face.clock())
    assert face.maintenance.pending("gpu", until_ms=face.clock(), limit=10) == []
    assert face.maintenance.overtaken_ms("gpu") == face.clock()
    assert face.maintenance.overtaken_ms("other") == 0


def test_the_overtaken_mark_only_rises(face: Face) -> None:
    first, second = face.create(), face.create()
    face.claim(first, dispatched_ms=100)
    face.claim(second, dispatched_ms=50)
    assert face.maintenance.overtaken_ms("q") == 100


def test_an_overtaken_mark_that_a_clock_put_back_has_left_ahead_is_forgotten(face: Face) -> None:
    face.claim(face.create(queue="q"), dispatched_ms=face.clock())
    face.clock.pass_ms(-60_000)
    assert face.maintenance.overtaken_ms("q") == 0
    face.claim(face.create(queue="q"), dispatched_ms=face.clock())
    assert face.maintenance.overtaken_ms("q") == face.clock()


def test_a_suspect_is_redispatched_no_sooner_than_was_said(face: Face) -> None:
    task = face.create()
    now_ms = face.clock()
    assert face.maintenance.mark_suspected([task.task_id], not_before_ms=now_ms + 6) == [now_ms + 6]
    assert face.maintenance.mark_suspected([task.task_id], not_before_ms=now_ms + 99) == [now_ms + 6]
    face.clock.pass_ms(6)
    again = face.maintenance.apply_sweep(task.task_id, Redispatch())
    assert again is not None and again.redispatches == 1
    (later,) = face.maintenance.mark_suspected([task.task_id], not_before_ms=0)
    assert later > face.clock()
    face.claim(task)
    assert face.maintenance.mark_suspected([task.task_id], not_before_ms=7) == [7]


def test_a_lock_is_held_by_one_at_a_time_and_ends_by_itself(make_face: FaceMaker) -> None:
    face = make_face()
    assert face.maintenance.try_lock("sweep", for_ms=MINUTE)
    assert not face.maintenance.try_lock("sweep", for_ms=MINUTE)
    assert face.maintenance.try_lock("other", for_ms=50)
    face.clock.pass_ms(50)  # Redis has a clock of its own
    wait_until(lambda: face.maintenance.try_lock("other", for_ms=MINUTE), "it ends by itself")
    assert not face.maintenance.try_lock("other", for_ms=MINUTE)


def test_the_last_sweep_is_remembered(face: Face) -> None:
    assert face.maintenance.last_sweep_ms() is None
    face.maintenance.mark_sweep(lease_ms=900)
    face.clock.pass_ms(700)
    assert face.maintenance.last_sweep_ms() == 700


def test_nothing_is_reaped_for_one_lease_after_a_gap_in_which_a_living_workers_may_have_run_out(
    face: Face,
) -> None:
    def passes_ms(duration_ms: int) -> tuple[bool, bool]:
        face.clock.pass_ms(duration_ms)
        mark = face.maintenance.mark_sweep(lease_ms=900)
        return mark.may_reap, bool(mark.alarm)

    assert passes_ms(0) == (True, False)
    assert passes_ms(600) == (True, False)
    assert passes_ms(601) == (False, True)
    assert passes_ms(500) == (False, False)
    assert passes_ms(400) == (True, False)
    assert passes_ms(5_000) == (False, True)
    assert passes_ms(601) == (False, True), "the rest begins anew"
    assert passes_ms(600) == (False, False)
    assert passes_ms(300) == (True, False)


def test_a_clock_that_was_put_back_does_not_prolong_the_rest(face: Face) -> None:
    face.maintenance.mark_sweep(lease_ms=900)
    face.clock.pass_ms(5_000)
    assert not face.maintenance.mark_sweep(lease_ms=900).may_reap
    face.clock.pass_ms(-60_000)
    assert not face.maintenance.mark_sweep(lease_ms=900).may_reap
    face.clock.pass_ms(600)
    assert not face.maintenance.mark_sweep(lease_ms=900).may_reap
    face.clock.pass_ms(300)
    assert face.maintenance.mark_sweep(lease_ms=900).may_reap


def test_ids_are_random_and_name_the_shard_of_their_owner() -> None:
    ids = {new_task_id(Owner("someone"), 16) for _ in range(2000)}
    assert len(ids) == 2000
    assert len({task_id[:2] for task_id in ids}) == 1
    assert {len(task_id) for task_id in ids} == {30}


def test_an_operator_cancels_the_task_of_anybody_and_the_history_says_so(face: Face) -> None:
    task = face.create(visible=False)
    cancelled = face.maintenance.apply_order(task_hash(task.task_id), CancelByOperator())
    assert (cancelled.phase, cancelled.status_message) == (Phase.CANCELLED, "An operator cancelled the task.")
    assert face.maintenance.inspect(task.task_id).log[-1].actor == "operator"
    with pytest.raises(InvalidTransition):
        face.maintenance.apply_order(task.task_id, CancelByOperator())
    with pytest.raises(TaskNotFound):
        face.maintenance.apply_order(new_task_id(ALICE), CancelByOperator())


def test_what_a_tool_raised_is_kept_for_operators_and_no_client_is_given_it(face: Face) -> None:
    task, lease_id = face.run()
    raised = ToolException(type="builtins.KeyError", message="'é'", traceback="Traceback ...", claim=1)
    done = CompleteWithResult(lease_id=lease_id, result=RESULT, is_error=True, exception=raised)
    face.store.commit(task.task_id, done)
    assert face.maintenance.inspect(task.task_id).exception == raised
    assert "KeyError" not in repr(face.store.get(ALICE, task.task_id))
    assert "KeyError" not in repr(face.store.page(ALICE))
    untroubled = face.finish()
    assert face.maintenance.inspect(untroubled.task_id).exception is None
