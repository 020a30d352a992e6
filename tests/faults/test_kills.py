"""Whichever process is killed at whichever point, nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .campaign import ELSEWHERE, SERVED, campaign, figures

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("TASKS_TEST_KILLS", "5"))
Measured = Callable[[str, str], None]


def test_nothing_is_lost_whichever_process_is_killed_at_whichever_point(
    tmp_path: Path, measured: Measured
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(SERVED, KILLS), action="kill")
    measured("R2", f"killed, {figures(striker, result)}")


def test_nothing_is_lost_when_whoever_sends_a_message_to_a_broker_elsewhere_is_killed(
    tmp_path: Path, measured: Measured
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(ELSEWHERE, KILLS), action="kill", elsewhere=True)
    measured("R2", f"broker elsewhere, {figures(striker, result)}")
