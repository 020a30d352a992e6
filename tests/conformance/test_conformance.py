"""The official suite against the fixture: real front end, real worker, real Redis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .run import run
from .serve import serving
from .suite import NoSuite, Suite, install

REQUIRED = "TASKS_TEST_CONFORMANCE"
"""Set to `required`, it makes a suite that cannot be had a failure."""


@pytest.fixture
def suite() -> Suite:
    try:
        return install()
    except NoSuite as error:
        reason = f"NOT RUN: the official conformance suite cannot be had: {error}"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.conformance
@pytest.mark.timeout(900)
def test_the_official_suite_finds_no_failure_and_checks_as_much_as_ever(suite: Suite, tmp_path: Path) -> None:
    with serving() as url:
        reports = [run(suite, url, selection, tmp_path) for selection in ("tasks",)]
    wrong = [f"{report.counts}\n{report.table}" for report in reports if not report.is_good]
    assert not wrong, "\n\n".join(wrong)
