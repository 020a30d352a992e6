"""What a running tool does with tasks that it submits: it begins each once, and waits without a worker.

For the engine: authors have `TaskService.submit` and `TaskHandle` (see `submission`).

A wait looks at the child. While that has not ended, the attempt of the parent does: it sleeps for a while,
like a tool that calls `ctx.sleep`, and comes here again from the top. So a parent holds no worker and no slot
that its child may need, and two workers that are full of parents do not wait for each other for ever. How the
child ended is recorded, since the child itself may be gone when the parent runs again.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from ..domain.errors import HistoryMismatch
from ..domain.task import EntryKind
from .attempt import Attempt
from .journal import Call
from .steps import AsyncSteps, Steps, refuse_inside_step, step_call
from .suspension import Suspension
from .timers import timer_of


class Seen(NamedTuple):
    """What was seen of a child.

    Attributes:
        end: How it ended, as JSON; None while it has not.
        since_ms: When it was created; None if it could not be seen.
    """

    end: Mapping[str, Any] | None
    since_ms: int | None = None


PAUSE = 0.25
"""How long a tool sleeps between two looks at a child, as a part of the child's age."""

SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS = 500, 30_000
"""The bounds of that."""

FOR_EVER = math.inf


class Children:
    """The tasks that a sync tool submits.

    Args:
        attempt: The attempt of the parent.
        steps: Records them.
    """

    def __init__(self, attempt: Attempt, steps: Steps) -> None:
        self._attempt, self._steps = attempt, steps

    def begin(self, name: str, facts: Mapping[str, Any], create: Callable[[str], str]) -> str:
        """Submit a task, as a step.

        Args:
            name: The step's name; used again, it becomes `name#2`.
            facts: What must be the same whenever the tool runs.
            create: Records the task and returns its id. It is given the name of this use of the step, and is
                called again if the attempt is lost before the step is recorded.

        Returns:
            The task's id.
        """
        call = _call(self._attempt, name, facts, "submit a task")
        return str(json.loads(self._steps.once(call, lambda: create(call.name)).value))

    def differs(self, use: str) -> HistoryMismatch:
        """The error of a task that was submitted in an attempt that was lost, with other arguments."""
        return _differs(self._attempt, use)

    def wait(
        self, name: str, facts: Mapping[str, Any], look: Callable[[], Seen], seconds: float | None
    ) -> Any:
        """Wait for a child.

        Args:
            name: The step's name; used again, it becomes `name#2`.
            facts: What must be the same whenever the tool runs.
            look: Looks at the child.
            seconds: How long at most, counted from the first time that the tool waits here; None: no end.

        Returns:
            `Seen.end`, as it was recorded; None if the child has not ended in time.
        """
        call = _call(self._attempt, name, facts, "wait for a task")
        ends_ms = FOR_EVER if seconds is None else self._end_of(name, seconds)
        end = None
        if (entries := self._attempt.journal.match([call])) is None:
            seen = look()
            if (pause_ms := _pause_ms(self._attempt, seen, ends_ms)) is not None:
                self._attempt.suspend(pause_ms, None)
            end = seen.end
        entry = entries[0] if entries else self._steps.once(call, lambda: end)
        return json.loads(entry.value)

    def _end_of(self, name: str, seconds: float) -> float:
        timer = timer_of(self._attempt, seconds, f"{name}, at most")
        if not timer.recorded:
            self._attempt.record(timer.entry)
        return self._attempt.now_ms() + timer.left_ms


class AsyncChildren:
    """`Children` for an async tool.

    Args:
        attempt: See `Children`.
        steps: See `Children`.
        suspension: Ends the attempt, together with what other branches of the tool wait for.
    """

    def __init__(self, attempt: Attempt, steps: AsyncSteps, suspension: Suspension) -> None:
        self._attempt, self._steps, self._suspension = attempt, steps, suspension

    async def begin(self, name: str, facts: Mapping[str, Any], create: Callable[[str], str]) -> str:
        """See `Children.begin`; `create` runs in a thread. Concurrent branches need different names."""
        call = _call(self._attempt, name, facts, "submit a task")
        entry = await self._steps.once(call, lambda: asyncio.to_thread(create, call.name))
        return str(json.loads(entry.value))

    def differs(self, use: str) -> HistoryMismatch:
        """See `Children.differs`."""
        return _differs(self._attempt, use)

    async def wait(
        self, name: str, facts: Mapping[str, Any], look: Callable[[], Awaitable[Seen]], seconds: float | None
    ) -> Any:
        """See `Children.wait`; other branches go on, and the attempt ends when none of them is busy."""
        call = _call(self._attempt, name, facts, "wait for a task")
        ends_ms = FOR_EVER if seconds is None else await self._end_of(name, seconds)
        end = None
        if (entries := self._attempt.journal.match([call])) is None:
            seen = await look()
            if (pause_ms := _pause_ms(self._attempt, seen, ends_ms)) is not None:
                await self._suspension.sleep(pause_ms)
            end = seen.end
        entry = entries[0] if entries else await self._steps.once(call, lambda: _at_once(end))
        return json.loads(entry.value)

    async def _end_of(self, name: str, seconds: float) -> float:
        timer = timer_of(self._attempt, seconds, f"{name}, at most")
        if not timer.recorded:
            await self._steps.record(timer.entry)
        return self._attempt.now_ms() + timer.left_ms


def _call(attempt: Attempt, name: str, facts: Mapping[str, Any], what: str) -> Call:
    attempt.check()
    refuse_inside_step(what)
    return step_call(attempt.journal, name, (), facts)


def _differs(attempt: Attempt, use: str) -> HistoryMismatch:
    call = Call(EntryKind.STEP, use, "")
    return HistoryMismatch(len(attempt.journal), f"{call} as it is now", f"{call} with other arguments")


def _pause_ms(attempt: Attempt, seen: Seen, ends_ms: float) -> int | None:
    """How long to sleep after a look at a child; None if there is nothing more to wait for."""
    now_ms = attempt.now_ms()
    if seen.end is not None or now_ms >= ends_ms:
        return None
    age_ms = 0 if seen.since_ms is None else now_ms - seen.since_ms
    pause_ms = min(max(round(age_ms * PAUSE), SHORTEST_PAUSE_MS), LONGEST_PAUSE_MS)
    return round(min(pause_ms, ends_ms - now_ms))


async def _at_once(value: Any) -> Any:
    return value
