"""How long a task is kept, and what its clients are told of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tasks_service.domain.decide import (
    Applied,
    IdempotencyRecord,
    Refused,
    Replayed,
    StoreCounts,
    effective,
    ttl_ms,
)
from tasks_service.domain.errors import IdempotencyConflict, InvalidTransition, QuotaExceeded, TaskNotFound
from tasks_service.domain.events import (
    CallerLeft,
    CallerReturned,
    Cancel,
    DeadlinePassed,
    Expire,
    MakeVisible,
)
from tasks_service.domain.limits import BLOCK_BYTES, MIB, Limits
from tasks_service.domain.task import DAY, HOUR, MINUTE, SECOND, Policy, Task
from tasks_service.settings import Settings
from tests.unit.life import START_MS, Life, answers, create

QUICK_MS = 20
SHORT = Policy(ttl_ms=5 * SECOND, retention_ms=HOUR)
WINDOW_MS = 10 * MINUTE


def seen(life: Life) -> Task:
    """What a client reads now."""
    task = effective(life.task, life.now_ms)
    assert task is not None
    return task


def is_gone(life: Life, at_ms: int) -> bool:
    return effective(life.task, at_ms) is None


def gone_at(life: Life) -> int:
    """When the task goes, counted from its creation."""
    at_ms = life.task.expires_ms
    assert not is_gone(life, at_ms - 1)
    assert is_gone(life, at_ms)
    return at_ms - START_MS


def ended(policy: Policy | None = None, *, after_ms: int = QUICK_MS) -> Life:
    return Life(policy).created().claimed().passes(after_ms).completed()


def hidden(policy: Policy | None = None, *, idempotency: str = "", resumable_ms: int = 0) -> Life:
    """A task whose handle nobody has."""
    life = Life(policy)
    life.goes(
        replace(
            create(policy),
            visible=False,
            idempotency=idempotency,
            reconnect_ms=WINDOW_MS,
            resumable_ms=resumable_ms,
        )
    )
    return life


# --- with a handle ----------------------------------------------------------------------------------


def test_a_call_of_20_ms_is_kept_for_its_hour_and_not_for_the_day_that_it_might_have_waited() -> None:
    assert gone_at(ended()) == QUICK_MS + HOUR


def test_a_ttl_shorter_than_the_retention_shortens_nothing_and_prolongs_nothing() -> None:
    assert gone_at(ended(SHORT)) == QUICK_MS + HOUR


def test_a_ttl_longer_than_the_retention_is_honoured() -> None:
    assert gone_at(ended(Policy(ttl_ms=DAY))) == DAY


def test_a_task_that_asked_is_kept_for_its_retention_after_its_end() -> None:
    life = Life().created().claimed().asked("a", open_ms=7 * DAY)
    life.passes(MINUTE).goes(answers("a"))
    life.claimed().passes(QUICK_MS).completed()
    assert gone_at(life) == MINUTE + QUICK_MS + HOUR


def test_what_clients_read_as_the_ttl_grows_with_the_task_until_its_end_fixes_it() -> None:
    life = Life(SHORT).created()
    assert ttl_ms(seen(life)) == HOUR
    life.claimed().passes(10 * MINUTE)
    assert ttl_ms(seen(life)) == HOUR + 10 * MINUTE
    life.completed().passes(10 * MINUTE)
    assert ttl_ms(seen(life)) == HOUR + 10 * MINUTE


def test_a_ttl_that_covers_what_is_to_come_stays_as_it_was_asked_for() -> None:
    life = Life(Policy(ttl_ms=DAY)).created().passes(HOUR)
    assert ttl_ms(seen(life)) == DAY


@pytest.mark.parametrize("policy", [Policy(), SHORT, Policy(ttl_ms=DAY)])
@pytest.mark.parametrize("read_after_ms", [0, SECOND, 2 * HOUR])
def test_nothing_goes_before_what_a_client_last_read(policy: Policy, read_after_ms: int) -> None:
    life = Life(policy).created().claimed().passes(read_after_ms)
    promised_ms = life.task.created_ms + ttl_ms(seen(life))
    life.goes(Cancel())
    assert not is_gone(life, promised_ms - 1)


def test_a_task_that_is_not_final_never_vanishes_it_ends_by_the_deadline_of_its_phase() -> None:
    life = Life(SHORT).created().passes(DAY - 1)
    assert not seen(life).status.is_final
    life.passes(1)
    assert seen(life).status.is_final
    assert not is_gone(life, START_MS + DAY + HOUR - 1)
    assert is_gone(life, START_MS + DAY + HOUR)


def test_a_deadline_that_a_sweep_writes_down_late_fixes_the_same_end_of_life() -> None:
    life = Life(SHORT).created().passes(DAY + MINUTE)
    assert life.goes(DeadlinePassed()).expires_ms == START_MS + DAY + HOUR


def test_a_task_whose_time_is_over_before_any_sweep_saw_its_end_is_only_removed() -> None:
    life = Life(SHORT).created().passes(DAY + HOUR)
    decision = life.meets(DeadlinePassed())
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, TaskNotFound)
    decision = life.meets(Expire())
    assert isinstance(decision, Applied)
    assert decision.task is None


def test_no_life_is_longer_than_the_longest() -> None:
    life = Life(Policy(ttl_ms=9 * DAY, max_lifetime_ms=2 * DAY)).created()
    assert ttl_ms(seen(life)) == 2 * DAY
    life.goes(Cancel())
    assert gone_at(life) == 2 * DAY


def test_a_task_that_has_not_expired_is_not_removed() -> None:
    life = ended().passes(HOUR - 1)
    decision = life.meets(Expire())
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, InvalidTransition)


# --- without a handle -------------------------------------------------------------------------------


def test_without_a_handle_an_execution_is_kept_for_the_reconnect_window_after_its_end() -> None:
    assert gone_at(hidden().claimed().passes(QUICK_MS).completed()) == QUICK_MS + WINDOW_MS


def test_without_a_handle_it_is_kept_for_as_long_as_its_newest_request_state_is_good() -> None:
    life = hidden().claimed().asked("a", open_ms=DAY)
    life.goes(CallerLeft(within_ms=HOUR))
    life.passes(MINUTE).goes(CallerReturned())
    life.goes(answers("a"))
    life.claimed().passes(QUICK_MS).completed()
    assert gone_at(life) == HOUR, "the same round sent again leads to the same end"


def test_a_newer_request_state_prolongs_it_and_an_older_one_shortens_nothing() -> None:
    life = hidden().claimed()
    life.goes(CallerLeft(within_ms=HOUR))
    life.passes(MINUTE).goes(CallerLeft(within_ms=MINUTE))
    life.completed()
    assert gone_at(life) == HOUR


def test_the_state_of_questions_before_the_task_leads_to_it_for_as_long_as_it_is_good() -> None:
    life = hidden(Policy(ttl_ms=1, retention_ms=1), idempotency="rounds", resumable_ms=HOUR)
    life.claimed().passes(QUICK_MS).completed()
    assert gone_at(life) == HOUR


def test_an_idempotency_key_keeps_an_execution_as_a_handle_would() -> None:
    assert gone_at(hidden(idempotency="key").claimed().passes(QUICK_MS).completed()) == QUICK_MS + HOUR


@pytest.mark.parametrize("end", [Life.completed, lambda life: life.goes(Cancel())])
def test_a_handle_given_out_after_the_end_keeps_the_task_as_one_given_before(
    end: Callable[[Life], object],
) -> None:
    life = hidden().claimed()
    end(life)
    life.passes(MINUTE).goes(MakeVisible())
    assert gone_at(life) == HOUR


# --- idempotency keys -------------------------------------------------------------------------------

KEYED = replace(create(), idempotency="key", request_digest="same")
RECORD = IdempotencyRecord(task_id="earlier", request_digest="same")


@pytest.mark.parametrize("age_ms", [0, QUICK_MS + HOUR - 1])
def test_a_key_leads_to_its_task_until_that_goes(age_ms: int) -> None:
    first = ended()
    life = Life()
    life.now_ms = START_MS + age_ms
    decision = life.meets(KEYED, StoreCounts(existing=RECORD, existing_task=first.task))
    assert decision == Replayed(task=None, task_id="earlier")
    decision = life.meets(
        replace(KEYED, request_digest="other"), StoreCounts(existing=RECORD, existing_task=first.task)
    )
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, IdempotencyConflict)


@pytest.mark.parametrize("digest", ["same", "other"])
@pytest.mark.parametrize("removed", [True, False], ids=["removed", "expired"])
def test_a_key_whose_task_is_gone_is_free(digest: str, removed: bool) -> None:
    first = None if removed else ended().task
    life = Life()
    life.now_ms = START_MS + QUICK_MS + HOUR
    life.meets(replace(KEYED, request_digest=digest), StoreCounts(existing=RECORD, existing_task=first))
    assert life.task.task_id == KEYED.task_id


# --- quotas -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "counts", "setting", "until"),
    [
        (Limits(live_per_owner=2), StoreCounts(owner_live=2), "max_live_per_owner", "some have ended"),
        (Limits(tasks_per_shard=2), StoreCounts(stored=2), "max_tasks_per_shard", "some have expired"),
        (
            Limits(stored_per_owner=MIB),
            StoreCounts(owner_blocks=MIB // BLOCK_BYTES),
            "max_stored_per_owner",
            "some tasks have expired",
        ),
    ],
)
def test_a_refusal_names_the_quota_that_was_hit_the_setting_that_raises_it_and_what_makes_room(
    limits: Limits, counts: StoreCounts, setting: str, until: str
) -> None:
    decision = Life(limits=limits).meets(create(), counts)
    assert isinstance(decision, Refused)
    error = decision.error
    assert isinstance(error, QuotaExceeded)
    assert setting in Settings.model_fields
    assert error.setting == f"TASKS_{setting.upper()}"
    assert error.setting in str(error)
    assert error.until == until
    assert error.retry_after_ms > 0
