"""Handles: what a program in Python holds of a task, to follow it, wait for its result, or cancel it."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..audit_log import audited
from ..authoring.tool import ToolRegistry
from ..domain.errors import InvalidTransition, StoreUnavailable
from ..domain.events import Cancel
from ..domain.names import task_hash
from ..domain.task import Owner, Progress, TaskStatus
from ..durable.children import Seen
from ..observability.context import Source, note_action, note_task
from ..store.clients import TaskView
from .change_listener import HEAL
from .outcome import Outcome
from .process_store import ProcessStore
from .running_tool import async_tool, sync_tool

logger = logging.getLogger(__name__)

RETRY = 0.5
"""Seconds until a store that did not answer is read again."""

CANCELLED = "The program that has its handle cancelled the task."


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task, as it is at a moment.

    Attributes:
        status: `working`, `input_required`, `completed`, `failed` or `cancelled`; the last three are final.
        message: What its status message says: what it waits for, what its tool has said last, why it failed.
        progress: How far its tool says that it is.
    """

    status: TaskStatus
    message: str | None
    progress: Progress | None


class TaskHandle:
    """A task that was submitted, or whose id was kept.

    Each method has a twin for event loops, with an `a` before its name, as in `await handle.aresult()`.

    Attributes:
        task_id: The task's id. Whoever has it and is its owner can read and cancel the task: keep it like the
            user's other data, and write `str(handle)` to logs, which names the task and tells nobody the id.
    """

    def __init__(self, process: ProcessStore, tools: ToolRegistry, owner: Owner, task_id: str) -> None:
        self.task_id = task_id
        self._process, self._tools, self._owner = process, tools, owner

    def __repr__(self) -> str:
        return f"<TaskHandle of task {task_hash(self.task_id)}>"

    def read(self) -> TaskState:
        """Read the task's state.

        Raises:
            TaskNotFound: It has expired, or is another owner's.
            StoreUnavailable: Redis did not answer in time.
        """
        task = self._view().task
        return TaskState(status=task.status, message=task.status_message, progress=task.progress)

    async def aread(self) -> TaskState:
        """See `read`."""
        return await asyncio.to_thread(self.read)

    def status(self) -> TaskStatus:
        """Read the task's status: `read().status`."""
        return self.read().status

    async def astatus(self) -> TaskStatus:
        """See `status`."""
        return (await self.aread()).status

    def result(self, timeout: float | None = None) -> Any:
        """Wait until the task has ended, and return what its tool returned.

        Inside a tool, this is a step: what it returned is recorded, and while the other task runs, the tool's
        own task sleeps, without a worker, and then runs again from the top.

        Args:
            timeout: Seconds to wait at most; 0: do not wait. None: for as long as the task lives.

        Returns:
            A value of the type that the tool's function declares to return, where its code is here; otherwise
            JSON's. The text, or the blocks of content, of a function that declares none.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            TaskFailed: It failed, or its result reports an error.
            TaskWasCancelled: It was cancelled.
            TaskNotFound: It has expired, or is another owner's.
            ConfigurationError: This is an async tool, which takes `aresult`.
        """
        tool = sync_tool("handle.result()", "await handle.aresult()")
        if tool is None:
            return self._value(Outcome.of(self._until_ended(_Wait(self._view, timeout))))
        return self._recorded(tool.children.wait(self._step, {}, self._look, timeout), timeout)

    async def aresult(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as `result` has it
        """See `result`."""
        tool = async_tool("handle.aresult()", "handle.result()")
        if tool is None:
            return self._value(Outcome.of(await self._auntil_ended(_Wait(self._view, timeout))))
        return self._recorded(await tool.children.wait(self._step, {}, self._alook, timeout), timeout)

    def cancel(self, reason: str = CANCELLED) -> bool:
        """Cancel the task.

        Args:
            reason: Its status message.

        Returns:
            Whether it is cancelled now; False if it had ended.

        Raises:
            TaskNotFound: It has expired, or is another owner's.
            StoreUnavailable: Redis did not answer in time.
        """
        with audited("cancel", Source(owner=self._owner)) as entry:
            note_action()
            note_task(self.task_id)
            try:
                self._process.store.apply(self._owner, self.task_id, Cancel(reason=reason), hidden=True)
            except InvalidTransition as refusal:
                entry.outcome = "failed"
                return refusal.current == TaskStatus.CANCELLED
        return True

    async def acancel(self, reason: str = CANCELLED) -> bool:
        """See `cancel`."""
        return await asyncio.to_thread(self.cancel, reason)

    # --- waiting ------------------------------------------------------------------------------------------

    def _view(self) -> TaskView:
        return self._process.store.get(self._owner, self.task_id, hidden=True)

    def _until_ended(self, wait: _Wait) -> TaskView:
        woken = threading.Event()
        with self._process.listener.listening(task_hash(self.task_id), woken.set):
            while (pause := wait.look()) is not None:
                woken.wait(pause)
                woken.clear()
        return wait.ended()

    async def _auntil_ended(self, wait: _Wait) -> TaskView:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(woken.set)

        with self._process.listener.listening(task_hash(self.task_id), wake):
            while (pause := await asyncio.to_thread(wait.look)) is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await woken.wait()
                woken.clear()
        return wait.ended()

    # --- inside a tool ------------------------------------------------------------------------------------

    @property
    def _step(self) -> str:
        return f"result of {task_hash(self.task_id)}"

    def _look(self) -> Seen:
        wait = _Wait(self._view, self._process.in_place)
        with suppress(TimeoutError):
            self._until_ended(wait)
        return wait.seen()

    async def _alook(self) -> Seen:
        wait = _Wait(self._view, self._process.in_place)
        with suppress(TimeoutError):
            await self._auntil_ended(wait)
        return wait.seen()

    def _recorded(self, end: Any, timeout: float | None) -> Any:
        if end is None:
            raise TimeoutError(f"The task did not end within {timeout:g} s; it goes on")
        return self._value(Outcome.from_json(end))

    def _value(self, outcome: Outcome) -> Any:
        tool = self._tools.get(outcome.tool)
        return outcome.value(None if tool is None else tool.results)


class _Wait:
    """A wait for the end of a task: it reads, and says how long to wait until it is to be read again."""

    def __init__(self, read: Callable[[], TaskView], seconds: float | None) -> None:
        self._read, self._seconds = read, seconds
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self._latest: TaskView | None = None

    def look(self) -> float | None:
        """Read the task; return the seconds until it must be read again, None once it has ended.

        Raises:
            TimeoutError: It has not ended in time.
        """
        pause = HEAL
        try:
            self._latest = self._read()
        except StoreUnavailable as error:
            logger.warning("Whoever waits for a task cannot read it for now: %s", error)
            pause = RETRY
        else:
            if self._latest.task.status.is_final:
                return None
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"The task did not end within {self._seconds:g} s; it goes on")
        return min(pause, left)

    def ended(self) -> TaskView:
        """The task that has ended."""
        assert self._latest is not None  # noqa: S101 - `look` has said so
        return self._latest

    def seen(self) -> Seen:
        """What a tool's context needs to know."""
        if self._latest is None:
            return Seen(None)
        task = self._latest.task
        end = Outcome.of(self._latest).to_json() if task.status.is_final else None
        return Seen(end, task.created_ms)
