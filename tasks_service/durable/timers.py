"""Timers: moments that a tool waits for, recorded so that a re-run waits for the same ones."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from ..domain.task import EntryKind, JournalEntry, JsonText
from .attempt import Attempt
from .journal import Call


class Timer(NamedTuple):
    """A timer.

    Attributes:
        entry: The journal entry.
        left_ms: Milliseconds until its moment; negative if that has passed.
        recorded: Whether it was recorded before.
    """

    entry: JournalEntry
    left_ms: int
    recorded: bool


def timer_of(attempt: Attempt, duration: timedelta | float, name: str) -> Timer:
    """The timer of a name: the recorded one, or a new one.

    Args:
        attempt: The attempt that waits.
        duration: A timedelta, or seconds.
        name: The timer's name; used again, it becomes `name#2`.
    """
    journal = attempt.journal
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    call = Call(EntryKind.TIMER, journal.name_of_use(EntryKind.TIMER, name), "")
    now_ms = attempt.now_ms()
    if (entries := journal.match([call])) is not None:
        return Timer(entries[0], int(entries[0].value) - now_ms, True)
    until_ms = now_ms + max(round(seconds * 1000), 0)
    entry = JournalEntry(kind=call.kind, name=call.name, digest="", value=JsonText(str(until_ms)))
    return Timer(entry, until_ms - now_ms, False)
