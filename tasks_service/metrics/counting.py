"""Counters and histograms of this process; off until something serves them.

Their labels have few values each: those that only an author or an operator can add to (services, tools,
queues) are limited in number, and the rest is counted under `other`. No label has a value that a caller
chose.

A process that was forked begins at zero. It hands on what it counts (`take_changes`), and its parent adds it
(`give_back`).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final, NamedTuple

OTHER: Final = "other"
"""Stands for what came after the most values of a label."""

MOST: Final[Mapping[str, int]] = {"service": 20, "tool": 200, "queue": 100}
"""By the label whose values authors and operators add to: the most values that are told apart."""

Labels = tuple[str, ...]


class Role(StrEnum):
    """What a process does that serves metrics."""

    FRONT_END = "front end"
    WORKER = "worker"
    BEAT = "beat"


EVERYWHERE: Final = tuple(Role)


class Delta(NamedTuple):
    """What was counted since the last `take_changes`.

    Attributes:
        series: The name of the series.
        labels: The values of its labels.
        numbers: What is to be added: of the numbers of a series, those that are not zero, by position.
    """

    series: str
    labels: Labels
    numbers: Sequence[tuple[int, float]]


class _State:
    """What all series of a process share."""

    def __init__(self) -> None:
        self.users = 0
        self.is_on = False
        self.begin_anew()

    def begin_anew(self) -> None:
        self.known: dict[str, set[str]] = {label: set() for label in MOST}
        self.lock = threading.Lock()
        self.changed: dict[tuple[str, Labels], list[float]] | None = None


_state = _State()


class Series:
    """A series: what it is called, and what it means.

    Args:
        name: As Prometheus has it, without what it adds for a kind (`_total`, `_bucket`).
        help_text: What it is, a sentence.
        labels: The names of its labels.
        roles: The processes that serve it.
        begins_with: The values of labels that are served from the start, at zero: a rate of what appears with
            its first event would miss that event.
    """

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Labels = (),
        *,
        roles: Iterable[Role] = EVERYWHERE,
        begins_with: Sequence[Labels] = (),
    ) -> None:
        self.name, self.help_text, self.labels = name, help_text, labels
        self.roles = tuple(role for role in Role if role in set(roles))
        self._first = tuple(begins_with) if labels else ((),)
        self._limited = tuple((n, label) for n, label in enumerate(labels) if label in MOST)

    def _key(self, values: Labels) -> Labels:
        """The labels' values, with `other` in place of those that are one too many; under the lock."""
        for position, label in self._limited:
            known, value = _state.known[label], values[position]
            if value in known:
                continue
            if len(known) < MOST[label]:
                known.add(value)
            else:
                values = (*values[:position], OTHER, *values[position + 1 :])
        return values


class Gauge(Series):
    """A value that is read when it is asked for; whoever serves it reads it."""


class Level(Gauge):
    """How many of something there are in this process, which counts them whether or not it is served."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.value = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one more in the block."""
        with _state.lock:
            self.value += 1
        try:
            yield
        finally:
            with _state.lock:
                self.value -= 1


class _Counted(Series):
    """A series that grows as things happen."""

    size = 1
    """How many numbers there are for each set of labels."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cells: dict[Labels, list[float]] = {}
        self.forget()

    def begin(self, *labels: str) -> None:
        """Serve these labels from now on, at zero if nothing was counted."""
        if _state.is_on:
            with _state.lock:
                self._of(labels)

    def forget(self) -> None:
        """Begin again at zero."""
        self._cells = {labels: [0.0] * self.size for labels in self._first}

    def cells(self) -> dict[Labels, list[float]]:
        """A copy of all numbers, by labels."""
        with _state.lock:
            return {labels: list(cell) for labels, cell in self._cells.items()}

    def merge(self, labels: Labels, numbers: Sequence[tuple[int, float]]) -> None:
        """Add what another process has counted."""
        with _state.lock:
            cell = self._of(labels)
            for position, number in numbers:
                cell[position] += number

    def _of(self, labels: Labels) -> list[float]:
        """The numbers that are about to be changed; under the lock."""
        cell = self._cells.get(labels)
        if cell is None:
            labels = self._key(labels)
            cell = self._cells.setdefault(labels, [0.0] * self.size)
        if _state.changed is not None:
            _state.changed[self.name, labels] = cell
        return cell


class Counter(_Counted):
    """Counts events."""

    def add(self, *labels: str, number: float = 1) -> None:
        """Count one, or so many."""
        if _state.is_on:
            with _state.lock:
                self._of(labels)[0] += number

    def value(self, *labels: str) -> float:
        """What was counted with these labels."""
        with _state.lock:
            return self._cells.get(labels, [0.0])[0]


class Histogram(_Counted):
    """Counts durations by their size; its numbers are those of the buckets, one for more, and the sum.

    Args:
        buckets: Their upper bounds, in seconds.
    """

    def __init__(self, *args: Any, buckets: Sequence[float], **options: Any) -> None:
        self.buckets = tuple(buckets)
        self.size = len(self.buckets) + 2
        super().__init__(*args, **options)

    def observe(self, seconds: float, *labels: str) -> None:
        """Count a duration; one below zero, which a clock that was put back makes, as zero."""
        if _state.is_on:
            seconds = max(seconds, 0.0)
            with _state.lock:
                cell = self._of(labels)
                cell[bisect_left(self.buckets, seconds)] += 1
                cell[-1] += seconds


def is_on() -> bool:
    """Whether anything is counted."""
    return _state.is_on


def turn_on() -> None:
    """Count from now on, until `turn_off` was called as often."""
    _state.users += 1
    _state.is_on = True


def turn_off() -> None:
    """Count no more, unless somebody else still wants it."""
    _state.users -= 1
    _state.is_on = _state.users > 0


def take_changes() -> list[Delta]:
    """In a process that hands on what it counts: everything since the last time, which is forgotten here."""
    with _state.lock:
        if not _state.changed:
            return []
        changed, _state.changed = _state.changed, {}
        taken = []
        for (name, labels), cell in changed.items():
            numbers = [(position, number) for position, number in enumerate(cell) if number]
            if numbers:
                taken.append(Delta(name, labels, numbers))
                for position, _ in numbers:
                    cell[position] = 0.0
        return taken


def give_back(deltas: Iterable[Delta], by_name: Mapping[str, Series]) -> None:
    """Add what was counted elsewhere, or was taken and could not be handed on."""
    for name, labels, numbers in deltas:
        series = by_name.get(name)
        if isinstance(series, _Counted):
            series.merge(labels, numbers)


def begin_anew(series: Iterable[Series], *, hands_on: bool = False) -> None:
    """Begin again at zero, with a lock that no other thread holds: for a process that was just forked.

    Args:
        series: All of them.
        hands_on: Whether `take_changes` will be called; otherwise nobody notes what has changed.
    """
    _state.begin_anew()
    _state.changed = {} if hands_on else None
    for one in series:
        if isinstance(one, _Counted):
            one.forget()
