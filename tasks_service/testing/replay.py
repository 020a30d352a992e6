"""The replay of an attempt: the tool runs once more from the top, as it would after a crash at its very end.

It gets the outcome of each recorded call, and must come to where it came before: the same question, the same
sleep, or the last recorded call of an attempt that ended. There it is stopped. No step runs in a replay, and
nothing of it is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from celery import Celery

from ..authoring.tool import Tool
from ..domain.errors import HistoryMismatch
from ..domain.events import Release, RequestInput, Sleep, WorkerEvent
from ..domain.limits import Limits
from ..domain.questions import FormQuestion, LinkQuestion, parse
from ..domain.task import EntryKind, JournalEntry, Task, TaskRecord
from ..durable.journal import Call, Journal
from .clock import Clock
from .engine import End, Engine, WatchedStore, is_step
from .reads import Reads
from .reports import ReportRecorder


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a run of the tool is another than the one before.

    Attributes:
        recorded: What the tool did before, in words.
        now: What it does now, in words.
        step_raised: The step that raised an exception before, if that is why.
    """

    recorded: str
    now: str
    step_raised: str = ""


class Calls:
    """The calls that the attempts of a run have made, with what they were compared by."""

    def __init__(self) -> None:
        self._made: dict[tuple[EntryKind, str], Call] = {}
        self.newest: Sequence[Call] = ()
        """The last calls of which nothing was recorded."""

    def add(self, calls: Sequence[Call]) -> None:
        """Note calls of which nothing was recorded yet."""
        self._made |= {(call.kind, call.name): call for call in calls}
        self.newest = calls

    def has(self, call: Call) -> bool:
        """Whether the tool has made a call of that kind and name."""
        return (call.kind, call.name) in self._made

    def told(self, entry: JournalEntry | None) -> str:
        """A recorded call in words."""
        if entry is None:
            return "nothing"
        made = self._made.get((entry.kind, entry.name))
        return told(made or Call(entry.kind, entry.name, entry.digest))


class Replay:
    """A replay that runs; watches it.

    Args:
        tool: The tool.
        calls: The calls of the run so far.
        until: What the attempt ended with.
    """

    def __init__(self, tool: Tool, calls: Calls, until: End) -> None:
        self._tool, self._calls, self._until = tool, calls, until
        self._engine: Engine | None = None
        self.reads = Reads()
        self.difference: Difference | None = None
        self._end: WorkerEvent | None = None
        self._stopped = False

    def run(
        self, record: TaskRecord, app: Celery, limits: Limits, clock: Clock, others: WatchedStore
    ) -> Difference | None:
        """Replay an attempt.

        Args:
            record: The task as it was just before the end of the attempt.
            app: The Celery app.
            limits: The service's limits.
            clock: The run's clock, which is not moved.
            others: Where the tasks are that the tool has submitted.

        Returns:
            Where the tool did not come to what it came to before; None if it did.
        """
        lease = record.task.lease
        if lease is None:
            return None
        still = Clock(clock.now)
        store = WatchedStore(lambda: still.now_ms, limits)
        engine = Engine(app, still, limits, self, ReportRecorder(), store=store, others=others)
        self._engine = engine
        store.hold(record)
        store.watch(record.task.task_id, self)
        engine.store.commit(record.task.task_id, Release(lease_id=lease.lease_id))
        engine.run(self._watched(), record.task)
        return self.difference or self._at_the_end(engine)

    def _watched(self) -> Tool:
        if self._tool.fn is None:
            return self._tool
        watched = self.reads.watched_async if self._tool.is_async else self.reads.watched
        return replace(self._tool, fn=watched(self._tool.fn))

    # --- see `Watcher` ------------------------------------------------------------------------------------

    def recording(self, event: WorkerEvent) -> None:
        """See `Watcher.recording`."""
        if self._end is None and isinstance(event, End):
            self._end = event

    def recorded(self, event: WorkerEvent) -> None:
        """See `Watcher.recorded`."""

    def submitted(self, task: Task) -> None:
        """See `Watcher.submitted`."""

    def goes_on(self, calls: Sequence[Call]) -> None:
        """See `Watcher.goes_on`: a step must not run."""
        if not is_step(calls):
            return
        (call,) = calls
        if not self._came_to(call):
            raised = call.name if self._calls.has(call) else ""
            self._differs(self._until_told(), told(call), step_raised=raised)
        self._stop()

    def _came_to(self, call: Call) -> bool:
        """Whether the attempt came to the same call, of which nothing was recorded then either."""
        if self._tool.is_async:  # a branch may have been in the middle of it
            return self._calls.has(call)
        return isinstance(self._until, Sleep) and self._until.timer is None and self._calls.newest == [call]

    def goes_along(self, journal: Journal) -> None:
        """See `Watcher.goes_along`: an attempt that ended has come to its last call, and goes no further."""
        if not journal.unmatched and not isinstance(self._until, RequestInput | Sleep):
            self._stop()

    def differs(self, calls: Sequence[Call], entry: JournalEntry | None, mismatch: HistoryMismatch) -> None:
        """See `Watcher.differs`."""
        recorded = () if self._engine is None else self._engine.journal.since(0)
        difference = difference_of(self._calls, calls, entry, recorded)
        self._differs(difference.recorded, difference.now, step_raised=difference.step_raised)

    # --- what it finds ------------------------------------------------------------------------------------

    def _differs(self, recorded: str, now: str, *, step_raised: str = "") -> None:
        if self.difference is None:
            self.difference = Difference(recorded, now, step_raised)

    def _stop(self) -> None:
        self._stopped = True
        if self._engine is not None:
            self._engine.end_attempt()

    def _until_told(self) -> str:
        return told_end(self._until) or "the end of the tool"

    def _at_the_end(self, engine: Engine) -> Difference | None:
        if self._stopped:
            return None
        now = _told_end_of(self._end, engine)
        if (left := engine.journal.unmatched) and not self._tool.is_async:
            return Difference(self._calls.told(left[0]), now)
        match self._until:
            case RequestInput():
                return self._at_a_question(self._until, now)
            case Sleep() if isinstance(self._end, Sleep):
                before, after = self._until.timer, self._end.timer
                same = before is None or after is None or before.name == after.name
                return None if same else Difference(told_end(self._until), now)
            case Sleep() if not (self._tool.is_async and isinstance(self._end, RequestInput)):
                return Difference(self._until_told(), now)
        return None

    def _at_a_question(self, until: RequestInput, now: str) -> Difference | None:
        if not isinstance(self._end, RequestInput):
            return Difference(told_end(until), now)
        before, after = until.inputs, self._end.inputs
        if before.keys() != after.keys() and not self._tool.is_async:
            return Difference(told_end(until), now)
        for key in before.keys() & after.keys():
            if (one := before[key].request) != (other := after[key].request):
                return Difference(_told_question(key, one, other), _told_question(key, other, one))
        return None


def difference_of(
    calls: Calls, made: Sequence[Call], entry: JournalEntry | None, recorded: Sequence[JournalEntry]
) -> Difference:
    """The difference where calls do not match the journal.

    Args:
        calls: The calls of the run so far.
        made: The calls that the tool makes now; none where it has ended.
        entry: The entry that they were compared with; None: there is none.
        recorded: All entries of the journal.
    """
    call = next(
        (each for each in made if entry is None or each.name == entry.name), made[0] if made else None
    )
    now = "the end of the tool" if call is None else told(call)
    # A step that was begun before, and is not recorded, has raised an exception.
    names = [(each.kind, each.name) for each in recorded]
    is_lost = call is not None and is_step([call]) and (call.kind, call.name) not in names
    raised = call.name if call is not None and is_lost and calls.has(call) else ""
    return Difference(calls.told(entry), now, raised)


_WORDS = {EntryKind.STEP: "step", EntryKind.ANSWER: "question", EntryKind.TIMER: "sleep"}
MOST_TOLD = 300
"""Most characters of arguments or of a schema in a message."""


def told(call: Call) -> str:
    """A call in words."""
    what = f"{_WORDS[call.kind]} {call.name!r}"
    if not call.compared or call.kind is EntryKind.TIMER:
        return what
    first, second = json.loads(call.compared)
    if call.kind is EntryKind.ANSWER:
        return f"{what}, with the schema {_short(_json(second))}"
    by_name = [f"{name}={_json(value)}" for name, value in second.items()]
    return f"{what}, called with ({_short(', '.join([*map(_json, first), *by_name]))})"


def told_end(event: End) -> str:
    """What an attempt ended with, in words; empty if it is no question and no sleep."""
    match event:
        case RequestInput(inputs=inputs):
            return " and ".join(f"question {key!r}" for key in inputs)
        case Sleep(timer=timer):
            return "sleep" if timer is None else f"sleep {timer.name!r}"
    return ""


def _told_end_of(end: WorkerEvent | None, engine: Engine) -> str:
    if isinstance(end, RequestInput | Sleep):
        return told_end(end)
    if engine.raised is not None:
        return f"the tool raises {type(engine.raised).__name__}: {engine.raised}"
    return "the tool returns"


def _told_question(key: str, request: str, other: str) -> str:
    asked, differs = parse(request), parse(other)
    if isinstance(asked, FormQuestion | LinkQuestion) and asked.message != getattr(differs, "message", None):
        return f"question {key!r}, {_short(asked.message)!r}"
    return f"question {key!r}, {_short(request)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    return text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}…"
