"""The official suite against the fixture: real front end, real worker, real Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .run import run
from .serve import serving
from .suite import SELECTIONS, NoSuite, Suite, install

REQUIRED = "TASKS_TEST_CONFORMANCE"
"""Set to `required`, it makes a suite that cannot be had a failure."""


@pytest.fixture(scope="module")
def suite() -> Suite:
    try:
        return install()
    except NoSuite as error:
        reason = f"NOT RUN: the official conformance suite cannot be had: {error}"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def url(suite: Suite) -> Iterator[str]:
    """The fixture, served once for all selections; not at all where there is no suite."""
    with serving() as url:
        yield url


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_official_suite_finds_no_failure_and_checks_as_much_as_ever(
    suite: Suite, url: str, selection: str, tmp_path: Path
) -> None:
    report = run(suite, url, selection, tmp_path)

    assert report.is_good, f"{report.counts}\n{report.table}"
