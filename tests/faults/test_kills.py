"""Whichever process is killed at whichever point, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .campaign import KILLS, SERVED, campaign, figures


@pytest.mark.faults
@pytest.mark.timeout(2400)
def test_nothing_is_lost_whichever_process_is_killed_at_whichever_point(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(SERVED, KILLS), action="kill")
    measured("R2", f"killed, {figures(striker, result)}")
