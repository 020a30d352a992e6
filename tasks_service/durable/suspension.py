"""The suspension of an async tool whose branches ask or sleep, once no branch is in the middle of a step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ..domain.errors import AttemptEnded
from ..domain.events import Question
from .attempt import Attempt

QUIET_CYCLES = 5
"""Cycles of the event loop in which other branches may ask too, before the questions are recorded."""

_OVER = "this attempt is over"


class Suspension:
    """Collects the questions and sleeps of an async tool's branches, and ends the attempt when none is busy.

    A branch that asks or sleeps does not go on in this attempt. Another may be in the middle of a step, whose
    result must be recorded first, or about to ask too, and then all questions are recorded together.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._questions: dict[str, Question] = {}
        self._sleeps: list[int] = []
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ending: asyncio.Task[None] | None = None
        self._closed = False

    async def wait_until_open(self) -> None:
        """Return once a step may begin; never, if the attempt ends.

        A step that began while the questions are being recorded could not be recorded itself, and would run
        twice.
        """
        while self._closed and self._ending is not None:
            with suppress(Exception):  # the branch that asked gets the error, and the attempt goes on
                await self._wait_for_end()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Delay the end of the attempt until the code here has finished."""
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    async def ask(self, questions: Mapping[str, Question]) -> NoReturn:
        """Ask, together with what other branches ask meanwhile; does not return."""
        self._questions.update(questions)
        await self._wait_for_end()
        raise AssertionError(_OVER)

    async def sleep(self, left_ms: int) -> NoReturn:
        """Sleep, unless another branch asks; does not return."""
        self._sleeps.append(self._attempt.now_ms() + left_ms)
        await self._wait_for_end()
        raise AssertionError(_OVER)

    async def _wait_for_end(self) -> None:
        """Wait for the end of the attempt, which cancels the tool; raises the error if it could not end."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)
        await asyncio.get_running_loop().create_future()

    async def _end(self) -> None:
        try:
            await self._commit()
        except Exception:
            # The tool may catch the error and ask something else.
            self._questions, self._sleeps, self._ending, self._closed = {}, [], None, False
            raise

    async def _commit(self) -> None:
        await self._wait_until_quiet()
        self._closed = True
        if self._questions:
            await asyncio.to_thread(_until_parked, self._attempt.park, self._questions)
        else:
            delay_ms = max(min(self._sleeps) - self._attempt.now_ms(), 0)
            await asyncio.to_thread(_until_parked, self._attempt.suspend, delay_ms, None)

    async def _wait_until_quiet(self) -> None:
        """Return when no step is running and no branch has asked or slept for `QUIET_CYCLES`."""
        while True:
            await self._idle.wait()
            before = (len(self._questions), len(self._sleeps))
            for _ in range(QUIET_CYCLES):
                await asyncio.sleep(0)
            if self._busy == 0 and before == (len(self._questions), len(self._sleeps)):
                return


def _until_parked(end: Callable[..., NoReturn], *args: Any) -> None:
    """End the attempt and swallow its `AttemptEnded`: the tool's own task is cancelled instead."""
    try:
        end(*args)
    except AttemptEnded:
        return
