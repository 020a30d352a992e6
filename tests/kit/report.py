"""What tests have measured, told together at the end of a run.

A test says it with the fixture `measured`; the figures reach the end of the run through pytest's own user
properties, also from other processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

PROPERTY = "measured "
"""In front of the goal, in the name of a user property."""


class Figure(NamedTuple):
    """What was measured for a goal."""

    goal: str
    what: str
    test: str


def figures(reports: Iterable[Any]) -> Iterator[Figure]:
    """What the tests of these reports have measured."""
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name.startswith(PROPERTY):
                yield Figure(name.removeprefix(PROPERTY), value, report.nodeid.rpartition("::")[2])


def told(found: Iterable[Figure]) -> list[str]:
    """The figures as lines, by goal."""

    def place(figure: Figure) -> tuple[str, int, str, str]:
        letters, digits = re.match(r"(\D*)(\d*)", figure.goal).groups()  # type: ignore[union-attr]
        return letters, int(digits or 0), figure.test, figure.what

    return [f"{figure.goal:<4} {figure.what}  ({figure.test})" for figure in sorted(set(found), key=place)]
