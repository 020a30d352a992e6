"""The execution of a task, from its message to its committed outcome: claim, bind, run, commit.

Celery learns only that it ended, and whether it failed. What the tool returned or raised is only in the
record.
"""

from __future__ import annotations

import inspect
import json
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

from celery.exceptions import WorkerShutdown, WorkerTerminate

from ..authoring.results import gathered
from ..authoring.tool import Tool
from ..crypto.owners import key_name
from ..domain.errors import (
    AttemptEnded,
    AttemptTimedOut,
    CorruptRecord,
    InvalidTransition,
    LimitExceeded,
    OfAnotherService,
    Parked,
    StoreUnavailable,
    TaskNotFound,
    WorkerStopping,
)
from ..domain.events import Claim, CompleteWithResult, DeadlinePassed, Release, WorkerEvent
from ..domain.limits import Limits
from ..domain.names import task_hash
from ..domain.task import JournalEntry, Task
from ..domain.traces import trace_id
from ..durable.clock import SYSTEM_CLOCK, Clock
from ..durable.context import AsyncTaskContext, RunningContext, TaskContext, current_context, running_in
from ..durable.journal import Journal
from ..failpoints import failpoint
from ..observability.context import Context, within
from ..store.maintenance import MaintenanceStore
from ..store.workers import Claimed, WorkerStore
from .attempt import RunningAttempt
from .caught import readable, with_exception
from .celery_releases import is_shutting_down, is_terminating
from .interrupts import Interrupter
from .lease_keeper import LeaseKeeper
from .loop import AsyncLoop
from .outcome import cause_of, event_of_error, event_of_value, not_recordable, result_too_large, timed_out
from .process_state import restored_process_state
from .report_publisher import Reporting
from .unregistered import Misdirected

logger = logging.getLogger(__name__)

Body = Callable[[RunningAttempt, dict[str, Any]], Any]
"""A function that calls a tool's body, given the attempt and the bound arguments."""


class JournalFactory(Protocol):
    """Makes the journal of an attempt; see `Journal`."""

    def __call__(self, entries: Sequence[JournalEntry], *, ordered: bool) -> Journal:
        """The journal that has these entries as of the claim."""


class ExecutorStore(WorkerStore, MaintenanceStore, Protocol):
    """What the executor needs: a worker's events, and a sweep's for what has run into its deadline."""


class Executor:
    """Runs tools in one worker process.

    Args:
        store: The store, for claims and commits.
        keeper: Renews the leases.
        interrupter: Interrupts unresponsive tools.
        loop: The event loop of async tools.
        publisher: Takes what tools report.
        limits: The limits of what is recorded.
        services: The names, present and former, of the tools' service; empty: any task is run.
        hand_on: Takes a task whose message was another service's, for that service's workers to be sent one.
        clock: Measures the time of attempts.
        journal: Makes the journal of an attempt, as `Journal` does.
    """

    def __init__(
        self,
        store: ExecutorStore,
        keeper: LeaseKeeper,
        interrupter: Interrupter,
        loop: AsyncLoop,
        publisher: Reporting,
        limits: Limits,
        *,
        services: frozenset[str] = frozenset(),
        hand_on: Callable[[Misdirected], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
        journal: JournalFactory = Journal,
    ) -> None:
        self._store, self._keeper, self._interrupter = store, keeper, interrupter
        self._loop, self._publisher, self._limits = loop, publisher, limits
        self._services, self._hand_on = services, hand_on
        self._clock, self._journal = clock, journal

    def run(
        self,
        tool: Tool,
        reference: str,
        *,
        lease_id: str,
        worker: str,
        dispatched_ms: int,
        body: Body | None = None,
    ) -> Task | None:
        """Claim a task and run it to an outcome; return None if it cannot be claimed.

        Args:
            tool: The tool.
            reference: The name or the id of the task, from the message.
            lease_id: A random id, drawn for this delivery.
            worker: The worker's name, for people.
            dispatched_ms: When the message was made.
            body: Calls the tool; by default its function is called.

        Returns:
            The task as this attempt left it; None if the attempt wrote no outcome.

        Raises:
            SystemExit: The process must end; the task has been handed back.
        """
        self._interrupter.engage()
        context = Context(task=task_hash(reference), tool=tool.name)
        try:
            with within(context):
                return self._run(tool, reference, context, lease_id, worker, dispatched_ms, body)
        finally:
            self._interrupter.disengage()

    def _run(
        self,
        tool: Tool,
        reference: str,
        context: Context,
        lease_id: str,
        worker: str,
        dispatched_ms: int,
        body: Body | None,
    ) -> Task | None:
        """See `run`; what is logged meanwhile carries the task and the attempt."""
        started = self._clock.monotonic()
        claim = Claim(lease_id=lease_id, worker=worker, dispatched_ms=dispatched_ms, services=self._services)
        claimed = self._claim(tool, reference, claim)
        if claimed is None:
            return None
        _note_attempt(context, claimed)
        attempt = RunningAttempt(
            claimed.task,
            lease_id=lease_id,
            store=self._store,
            limits=self._limits,
            started=started,
            caller=claimed.caller,
            journal=self._journal(claimed.journal, ordered=not tool.is_async),
            ask=tool.ask,
            wake=self._keeper.wake,
            publisher=self._publisher,
            clock=self._clock,
        )
        self._attempt(tool, claimed, attempt, body or self.body_of(tool))
        return attempt.outcome

    def _claim(self, tool: Tool, reference: str, claim: Claim) -> Claimed | None:
        """Claim the task; None if the message was a duplicate or came early, or the store did not answer."""
        try:
            return self._store.claim(reference, claim)
        except OfAnotherService as refusal:
            task = task_hash(reference)
            self._hand_on(Misdirected(task, tool.name, refusal.queue, claim.dispatched_ms, refusal.service))
        except (TaskNotFound, InvalidTransition) as refusal:
            logger.debug("The message for task %s is dropped: %s", task_hash(reference), refusal)
        except StoreUnavailable as error:
            logger.warning("Task %s could not be claimed, it stays pending: %s", task_hash(reference), error)
        except CorruptRecord as error:
            logger.warning("The message for task %s is dropped: %s", task_hash(reference), error)
        return None

    def _attempt(self, tool: Tool, claimed: Claimed, attempt: RunningAttempt, body: Body) -> None:
        ctrl_c = _is_ctrl_c_pythons()
        self._keeper.keep(attempt)
        try:
            try:
                value = self._call(tool, claimed, attempt, body)
            except BaseException as raised:
                self._interrupter.leave()
                # No name here outlives this block: its traceback would keep it until a rare collection.
                if self._commit_raised(readable(raised), tool, attempt, ctrl_c=ctrl_c):
                    raise
            else:
                task, lease_id = attempt.task, attempt.lease_id
                self._settle(attempt, tool, lambda: event_of_value(value, tool, task, lease_id, self._limits))
        finally:
            attempt.close_reports(publish=False)
            self._keeper.drop(attempt)

    def _call(self, tool: Tool, claimed: Claimed, attempt: RunningAttempt, body: Body) -> Any:
        arguments = tool.bind(json.loads(claimed.arguments))
        if tool.exposed is not None:
            _, arguments = tool.passed(arguments)
        failpoint("Body", "before")
        with restored_process_state(tool.name) if self._interrupter.engaged else nullcontext():
            value = self._run_body(tool, attempt, arguments, body)
        failpoint("Body", "after")
        attempt.journal.finish()
        return value

    def _run_body(self, tool: Tool, attempt: RunningAttempt, arguments: dict[str, Any], body: Body) -> Any:
        if tool.is_async:
            return gathered(body(attempt, arguments))
        with running_in(TaskContext(attempt)):
            try:
                exposed = tool.exposed
                self._interrupter.enter(
                    attempt,
                    celery_style=exposed is not None,
                    soft_limited=exposed is not None and exposed.soft_time_limit is not None,
                )
                return self._settled(body(attempt, arguments), attempt)
            finally:
                self._interrupter.leave()

    def _settled(self, value: Any, attempt: RunningAttempt) -> Any:
        """What a function has come to in the end: a coroutine is awaited, an iterator is read to its end."""
        if inspect.isawaitable(value):
            value = self._loop.run(partial(_awaited, value, AsyncTaskContext(attempt)), attempt)
        return gathered(value)

    def body_of(self, tool: Tool) -> Body:
        """What calls a tool's function; see `run`.

        Raises:
            TypeError: It has none: it is an exposed Celery task.
        """
        function = tool.fn
        if function is None:
            raise TypeError(f"{tool.name} has no function")

        def call(attempt: RunningAttempt, arguments: dict[str, Any]) -> Any:
            if not tool.is_async:
                by_position, by_name = tool.passed(arguments, current_context())
                return function(*by_position, **by_name)
            context = AsyncTaskContext(attempt)
            by_position, by_name = tool.passed(arguments, context)
            return self._loop.run(lambda: _called(function, by_position, by_name, context), attempt)

        return call

    def _commit_raised(
        self, error: BaseException, tool: Tool, attempt: RunningAttempt, *, ctrl_c: bool
    ) -> bool:
        """Commit what a tool's exception means; whether the process must end by it."""
        ends = _ends_the_process(error, ctrl_c=ctrl_c)
        if ends:
            attempt.request_stop(WorkerStopping)
        self._commit_error(error, tool, attempt)
        return ends

    def _commit_error(self, error: BaseException, tool: Tool, attempt: RunningAttempt) -> None:
        """Commit the outcome of an attempt whose tool raised an exception."""
        if attempt.stop_reason is None and isinstance(error, AttemptEnded):
            logger.warning("Tool %s raised %s by itself", tool.name, type(error).__name__)
        if attempt.stop_reason is None:
            task, lease_id = attempt.task, attempt.lease_id
            self._settle(
                attempt,
                tool,
                lambda: with_exception(
                    event_of_error(error, tool, task, lease_id), cause_of(error), task.claims
                ),
            )
        elif attempt.stop_reason is Parked:
            logger.debug("Task %s waits", task_hash(attempt.task.task_id))
        elif attempt.stop_reason is AttemptTimedOut:
            self._time_out(attempt, tool)
        elif attempt.stop_reason is WorkerStopping:
            release = Release(lease_id=attempt.lease_id, reason="its worker was stopped")
            self._commit(attempt, tool, release)
            logger.info("Task %s was handed back", task_hash(attempt.task.task_id))
        else:
            logger.info("Task %s ended early: %s", task_hash(attempt.task.task_id), attempt.end_error())

    def _time_out(self, attempt: RunningAttempt, tool: Tool) -> None:
        logger.warning("Tool %s ran too long (task %s)", tool.name, task_hash(attempt.task.task_id))
        try:
            attempt.outcome = self._store.apply_sweep(attempt.task.task_id, DeadlinePassed())
        except TaskNotFound:
            return
        except InvalidTransition:
            # The store's clock is a little behind ours, or the task is over.
            self._commit(attempt, tool, timed_out(attempt.task, attempt.lease_id))
        except StoreUnavailable as error:
            logger.warning("Left to the sweep: %s", error)

    def _settle(self, attempt: RunningAttempt, tool: Tool, make: Callable[[], WorkerEvent]) -> None:
        """Make the event that ends an attempt, and commit it.

        One that cannot be made, because code of the author runs for it too, or cannot be written, fails the
        task at once. Otherwise the attempt would be lost, and repeated to the same end.
        """
        try:
            self._commit(attempt, tool, make())
        except BaseException as raised:
            if _ends_the_process(readable(raised), ctrl_c=_is_ctrl_c_pythons()):
                raise
            event = not_recordable(readable(raised), tool, attempt.task, attempt.lease_id)
            self._commit(attempt, tool, event)

    def _commit(self, attempt: RunningAttempt, tool: Tool, event: WorkerEvent) -> None:
        """Commit an outcome once; if a result is too large, commit a failure that says so."""
        name = task_hash(attempt.task.task_id)
        try:
            attempt.close_reports()
            attempt.flush_progress()
            attempt.outcome = attempt.commit(event)
        except StoreUnavailable:
            logger.exception("The outcome of task %s could not be written", name)
        except LimitExceeded as error:
            if not isinstance(event, CompleteWithResult):
                raise
            self._commit(attempt, tool, result_too_large(tool, attempt.lease_id, error))
        except (TaskNotFound, InvalidTransition) as refusal:
            logger.info("The outcome of task %s does not count: %s", name, refusal)


def _note_attempt(context: Context, claimed: Claimed) -> None:
    task = claimed.task
    context.service, context.attempt, context.claim = task.service, task.attempts, task.claims
    context.source.owner, context.source.name = task.owner, key_name(claimed.caller)
    context.trace = trace_id(task.trace)


async def _called(
    function: Callable[..., Any], by_position: list[Any], by_name: dict[str, Any], context: RunningContext
) -> Any:
    """Call an async tool on the loop, where its context is that of the tool that runs."""
    with running_in(context):
        return await function(*by_position, **by_name)


async def _awaited(awaitable: Awaitable[Any], context: RunningContext) -> Any:
    with running_in(context):
        return await awaitable


def _is_ctrl_c_pythons() -> bool:
    """Whether Ctrl-C would raise here: in a test, never in a worker, which has its own handler of SIGINT."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _ends_the_process(error: BaseException, *, ctrl_c: bool) -> bool:
    """Whether an exit was requested by a signal to this process, rather than by the tool.

    Args:
        error: What was raised.
        ctrl_c: Whether a `KeyboardInterrupt` may be Ctrl-C.
    """
    if isinstance(error, KeyboardInterrupt):
        return ctrl_c
    if isinstance(error, WorkerShutdown | WorkerTerminate):
        return is_shutting_down()
    return isinstance(error, SystemExit) and is_terminating()
