"""Whoever sends a message to a broker that is not the store may be killed, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .campaign import ELSEWHERE, KILLS, campaign, figures


@pytest.mark.faults
@pytest.mark.timeout(2400)
def test_nothing_is_lost_when_whoever_sends_a_message_to_a_broker_elsewhere_is_killed(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(ELSEWHERE, KILLS), action="kill", elsewhere=True)
    measured("R2", f"broker elsewhere, {figures(striker, result)}")
