"""How an async tool comes to rest: branches that wait, and branches that must finish something first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ..domain.errors import AttemptEnded
from ..domain.events import Question
from .attempt import Attempt

QUIET_TURNS = 5
"""Turns of the event loop that branches get to ask as well, before the questions go out."""

_OVER = "this attempt is over"


class Pause:
    """Gathers what the branches of an async tool wait for, and ends the attempt when nothing else is busy.

    A branch that asks or sleeps never goes on in this attempt. Others may be in the middle of a step, whose
    result must be recorded first; or about to ask as well, and then their questions go out together.
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

    async def proceed(self) -> None:
        """Return if something may still begin in this attempt; otherwise never.

        What began while the questions are being written could not be recorded, and would run twice.
        """
        while self._closed and self._ending is not None:
            with suppress(Exception):  # whoever asked gets it, and the attempt goes on
                await self._never()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Something runs that must be recorded before the attempt ends."""
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    async def ask(self, questions: Mapping[str, Question]) -> NoReturn:
        """Ask, with whatever else is asked meanwhile; does not return."""
        self._questions.update(questions)
        await self._never()
        raise AssertionError(_OVER)

    async def sleep(self, left_ms: int) -> NoReturn:
        """Sleep, unless something is asked; does not return."""
        self._sleeps.append(self._attempt.now_ms() + left_ms)
        await self._never()
        raise AssertionError(_OVER)

    async def _never(self) -> None:
        """Wait for the end of the attempt, which cancels the tool; raises what kept it from ending."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)
        await asyncio.get_running_loop().create_future()

    async def _end(self) -> None:
        try:
            await self._commit()
        except Exception:
            # The tool may ask something else.
            self._questions, self._sleeps, self._ending, self._closed = {}, [], None, False
            raise

    async def _commit(self) -> None:
        await self._quiet()
        self._closed = True
        if self._questions:
            await asyncio.to_thread(_until_parked, self._attempt.park, self._questions)
        else:
            delay_ms = max(min(self._sleeps) - self._attempt.now_ms(), 0)
            await asyncio.to_thread(_until_parked, self._attempt.suspend, delay_ms, None)

    async def _quiet(self) -> None:
        """Return when no step is busy and the branches have had their turn to ask."""
        while True:
            await self._idle.wait()
            before = (len(self._questions), len(self._sleeps))
            for _ in range(QUIET_TURNS):
                await asyncio.sleep(0)
            if self._busy == 0 and before == (len(self._questions), len(self._sleeps)):
                return


def _until_parked(end: Callable[..., NoReturn], *args: Any) -> None:
    """Ending the attempt raises what ends it; the tool's own task learns of it by its cancellation."""
    try:
        end(*args)
    except AttemptEnded:
        return
