"""What clients were told agrees with what happened, through cut connections and races."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import pytest

from tests.kit.audit import told
from tests.kit.history import MUST_LOG, Outcome
from tests.kit.servers import RedisServer

from .linearizability import run

OPERATIONS = int(os.environ.get("TASKS_TEST_OPERATIONS", "6000"))
PROCESSES = int(os.environ.get("TASKS_TEST_PROCESSES", "3"))
SEED = int(os.environ.get("TASKS_TEST_SEED", "0")) or secrets.randbelow(1_000_000) + 1
EVERY_EVENT = MUST_LOG | {"AnswerInput", "Renew", "Checkpoint"}


@pytest.mark.timeout(600)
def test_every_clients_story_agrees_with_the_transition_log(
    redis_server: RedisServer, measured: Callable[[str, str], None]
) -> None:
    ran = run(redis_server, operations=OPERATIONS, processes=PROCESSES, seed=SEED)
    measured("R4", ran.summary(SEED))
    assert not ran.violations, f"seed {SEED}\n{told(ran.violations)}"
    assert ran.cuts >= OPERATIONS // 25
    assert all(asked.outcome is not Outcome.UNKNOWN for asked in ran.asked)
    happened = {asked.kind for asked in ran.asked if asked.outcome is Outcome.OK}
    # Of the rarest, some twenty are acknowledged in the quick run: weights and ABANDONED see to it.
    assert happened >= EVERY_EVENT, f"seed {SEED}: never acknowledged: {EVERY_EVENT - happened}"


@pytest.mark.timeout(600)
def test_never_do_more_run_than_have_a_slot_and_nobody_waits_while_one_is_free(
    redis_server: RedisServer, measured: Callable[[str, str], None]
) -> None:
    ran = run(redis_server, operations=OPERATIONS, processes=PROCESSES, seed=SEED, slots=1)
    measured("R4", f"one slot for four tasks, {ran.summary(SEED)}")
    assert not ran.violations, f"seed {SEED}\n{told(ran.violations)}"
    assert all(asked.outcome is not Outcome.UNKNOWN for asked in ran.asked)
