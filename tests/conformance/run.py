"""Run the official MCP conformance suite against the fixture: `python -m tests.conformance.run`.

Runs what the revisions 2026-07-28 and 2025-11-25 require, and the scenarios of the tasks extension; prints a
table of each, and ends with the counts. Exit status: 0 if nothing failed and as many checks passed as are
known to, 1 otherwise, 2 if the suite cannot be had (which is never a success).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .serve import serving
from .suite import SELECTIONS, SUITE, VERSION, NoSuite, Outcome, Suite, install

EXPECTED = {"2026-07-28": 196, "2025-11-25": 84, "tasks": 44}
"""Checks of a selection that pass; fewer mean that something is not checked any more."""

EXPECTED_CODELESS = {"2026-07-28": 177, "2025-11-25": 72, "tasks": 44}
"""The same, where the front end has none of the fixture's code."""

NOT_OFFERED = "Method not found"
"""Why checks fail that need what a front end without code has not: resources, prompts and completions."""

COLUMNS = {"pass": "SUCCESS", "fail": "FAILURE", "warn": "WARNING", "skip": "SKIPPED"}


@dataclass(frozen=True)
class Report:
    """What came of a selection.

    Attributes:
        selection: Its name.
        outcomes: Its scenarios.
        seconds: How long it took.
        codeless: Whether the front end had none of the fixture's code.
    """

    selection: str
    outcomes: Sequence[Outcome]
    seconds: float
    codeless: bool = False

    def count(self, status: str) -> int:
        """How many checks have a status."""
        return sum(len(outcome.of(status)) for outcome in self.outcomes)

    @property
    def expected(self) -> int:
        """How many checks must pass."""
        return (EXPECTED_CODELESS if self.codeless else EXPECTED).get(self.selection, 1)

    @property
    def is_good(self) -> bool:
        """Whether nothing failed but what is not offered, and no check is missing."""
        return len(self.not_offered) == self.count("FAILURE") and self.count("SUCCESS") >= self.expected

    @property
    def not_offered(self) -> list[str]:
        """What failed because a front end without code does not offer it."""
        if not self.codeless:
            return []
        failed = (reason for reason in self.complaints if reason.startswith("FAILURE"))
        return [reason for reason in failed if NOT_OFFERED in reason]

    @property
    def counts(self) -> str:
        """The counts, in one line."""
        line = f"{self.selection}: {self.count('SUCCESS')} passed, {self.count('FAILURE')} failed"
        offered = f", {len(self.not_offered)} of them not offered" if self.not_offered else ""
        line += offered
        others = [f"{self.count(COLUMNS[name])} {name}" for name in ("warn", "skip")]
        missing = "" if self.count("SUCCESS") >= self.expected else f"; {self.expected} are expected to pass"
        return f"{line} ({', '.join(others)}, {self.seconds:.0f} s){missing}"

    @property
    def table(self) -> str:
        """A line for each scenario, and what failed."""
        width = max(len(outcome.scenario) for outcome in self.outcomes)
        lines = [f"{self.selection:{width}}  {' '.join(COLUMNS)}"]
        for outcome in self.outcomes:
            numbers = [f"{len(outcome.of(status)):4}" for status in COLUMNS.values()]
            lines.append(f"{outcome.scenario:{width}}  {' '.join(numbers)}")
        return "\n".join([*lines, *self.complaints])

    @property
    def complaints(self) -> list[str]:
        """A line for each check that failed or warned."""
        return [
            f"{status} {outcome.scenario}: {check['id']}: {_reason(check)}"
            for status in ("FAILURE", "WARNING")
            for outcome in self.outcomes
            for check in outcome.of(status)
        ]


def run(suite: Suite, url: str, selection: str, output: Path, *, codeless: bool = False) -> Report:
    """Run a selection of the suite against the server at `url`."""
    started = time.monotonic()
    outcomes = suite.run(selection, url, output / selection)
    return Report(selection, outcomes, time.monotonic() - started, codeless)


def _reason(check: dict[str, object]) -> str:
    reason = check.get("errorMessage") or json.dumps(check.get("details", {}))
    return " ".join(str(reason).split())[:400]


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "selections",
        nargs="*",
        default=SELECTIONS,
        metavar="SELECTION",
        help=f"{', '.join(SELECTIONS)}, or the name of a scenario; default: the former",
    )
    parser.add_argument(
        "--codeless", action="store_true", help="serve the fixture by a front end that has none of its code"
    )
    parser.add_argument("--url", help="a server that runs already, instead of the fixture")
    parser.add_argument(
        "--output", type=Path, help="where the suite's own reports are kept; default: nowhere"
    )
    options = parser.parse_args()
    try:
        suite = install()
    except NoSuite as error:
        print(f"NOT RUN: the conformance suite cannot be had: {error}", file=sys.stderr)
        return 2
    print(f"{SUITE} {VERSION}", flush=True)
    with ExitStack() as exits:
        output = options.output or Path(
            exits.enter_context(tempfile.TemporaryDirectory(prefix="conformance-"))
        )
        url = options.url or exits.enter_context(serving(codeless=options.codeless))
        reports = []
        for selection in options.selections:
            reports.append(run(suite, url, selection, output, codeless=options.codeless))
            print(f"\n{reports[-1].table}", flush=True)
    print()
    for report in reports:
        print(report.counts)
    return 0 if all(report.is_good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
