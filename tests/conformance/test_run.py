"""What the runner makes of what the suite reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .run import EXPECTED, EXPECTED_CODELESS, Report
from .suite import REVISIONS, Outcome

PASSED = {"id": "check", "status": "SUCCESS"}
FAILED = {"id": "check", "status": "FAILURE", "errorMessage": "it does not"}
WARNED = {"id": "check", "status": "WARNING"}


def report(*outcomes: Outcome) -> Report:
    return Report("tasks", outcomes, 1.0)


def test_a_report_is_good_when_as_many_checks_passed_as_are_known_to() -> None:
    good = report(Outcome("one", [PASSED] * EXPECTED["tasks"]), Outcome("two", [WARNED]))
    assert good.is_good
    assert good.counts == f"tasks: {EXPECTED['tasks']} passed, 0 failed (1 warn, 0 skip, 1 s)"


@pytest.mark.parametrize(
    "outcomes",
    [
        [Outcome("one", [PASSED] * (EXPECTED["tasks"] - 1))],
        [Outcome("one", [PASSED] * EXPECTED["tasks"]), Outcome("two", [FAILED])],
        [Outcome("one", [PASSED] * EXPECTED["tasks"]), Outcome("two", [])],
    ],
    ids=["a check is missing", "a check failed", "a scenario did not run"],
)
def test_a_report_is_bad_when(outcomes: list[Outcome]) -> None:
    assert not report(*outcomes).is_good


def test_without_the_fixtures_code_only_what_is_not_offered_may_fail() -> None:
    missing = {"id": "check", "status": "FAILURE", "errorMessage": "Failed: Method not found"}
    passed = Outcome("one", [PASSED] * EXPECTED_CODELESS["tasks"])
    without = Report("tasks", [passed, Outcome("two", [missing])], 1.0, codeless=True)
    assert without.is_good
    assert without.counts.startswith("tasks: 44 passed, 1 failed, 1 of them not offered (")
    assert not Report("tasks", [passed, Outcome("two", [missing])], 1.0).is_good
    assert not Report("tasks", [passed, Outcome("two", [missing, FAILED])], 1.0, codeless=True).is_good


def test_a_failure_is_told_with_its_scenario_and_reason() -> None:
    assert "FAILURE two: check: it does not" in report(Outcome("two", [FAILED])).table
    assert "FAILURE two: two: the scenario did not run" in report(Outcome("two", [])).table


def test_a_suite_that_cannot_be_had_is_no_success(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.conformance.run"]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("NOT RUN: the conformance suite cannot be had: npm is not on PATH")


def test_every_revision_has_an_expected_count() -> None:
    assert set(EXPECTED) == set(EXPECTED_CODELESS) == {*REVISIONS, "tasks"}
