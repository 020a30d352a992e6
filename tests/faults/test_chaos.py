"""No acknowledged task is lost, whatever dies at random."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.audit import told

from .chaos import chaos

pytestmark = pytest.mark.faults

TASKS = int(os.environ.get("TASKS_TEST_TASKS", "400"))
FAULTS = int(os.environ.get("TASKS_TEST_FAULTS", "24"))
SEED = int(os.environ.get("TASKS_TEST_SEED", "0")) or secrets.randbelow(1_000_000) + 1


@pytest.mark.timeout(600 + FAULTS * 30)
def test_no_acknowledged_task_is_lost_whatever_is_killed_stopped_or_cut(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    campaign = chaos(tmp_path, tasks=TASKS, faults=FAULTS, seed=SEED)
    print(campaign.summary(SEED), told(campaign.violations), sep="\n")
    assert not campaign.violations, f"seed {SEED}; logs are in {tmp_path}"
    assert campaign.faults.total() == FAULTS
    assert len(campaign.stories) >= TASKS
    measured("R1", campaign.summary(SEED))
