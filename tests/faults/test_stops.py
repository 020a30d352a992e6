"""Whichever process stands still at whichever point, for longer than its leases, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .campaign import SERVED, campaign, figures


@pytest.mark.faults
@pytest.mark.timeout(2400)
def test_a_process_that_is_stopped_at_any_point_for_longer_than_its_lease_writes_nothing_stale(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(SERVED, 1), action="stop")
    measured("R2", f"stopped and woken, {figures(striker, result)}")
