"""What a running tool holds: its task's identity, progress, variables, questions, steps, and signals.

Every call on a context is also a checkpoint: if the client has cancelled, the lease was lost, the time is up
or the worker stops, the call raises one of `AttemptEnded`, which is not an `Exception`. A tool that must
clean up uses `finally`, as always.

Asking and sleeping end the attempt too: nothing is held while the task waits. When the answer or the time
has come the tool runs again from the top, and every call that has an outcome in the journal returns it at
once (see `journal`).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar, overload

from mcp_types import CreateMessageResult, Root, SamplingMessage
from pydantic import BaseModel

from ..domain.errors import ClientCannot
from ..domain.events import Question as DomainQuestion
from ..domain.questions import encode
from ..domain.task import ClientCapability, EntryKind, JournalEntry, JsonText
from .attempt import Attempt
from .journal import Call
from .log_messages import TOOL_LOGGERS, Level, log_message, write_log
from .questions import (
    Cancelled,
    Declined,
    Form,
    Link,
    Question,
    Roots,
    Sampling,
    default_text,
    question_digest,
)
from .retry import RetryPolicy
from .steps import inside_step, refuse_inside_step, step_call, step_entry, step_value
from .suspension import Pause

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)
Values = dict[str, Any]
Unanswered = Declined | Cancelled

SHORT_SLEEP_MS = 50
"""What is left of a sleep and not worth another attempt."""

STEP_ATTEMPTS = 5
"""Most tries of a step that has a retry policy, within one attempt of its tool."""


class _Context:
    """What both contexts share: reading never blocks."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._journal = attempt.journal

    @property
    def task_id(self) -> str:
        """The task's id, as the client knows it."""
        return self._attempt.task.task_id

    @property
    def owner(self) -> str:
        """Whose task it is: an opaque, stable hash."""
        return self._attempt.task.owner

    @property
    def tool(self) -> str:
        """The tool's name."""
        return self._attempt.task.tool

    @property
    def attempt(self) -> int:
        """Which attempt this is since the last sure progress: 1 for the first."""
        return self._attempt.task.attempts

    @property
    def claims(self) -> int:
        """How often the task has been claimed, this time included; every re-run adds one."""
        return self._attempt.task.claims

    @property
    def cancelled(self) -> bool:
        """Whether this attempt is to stop: cancelled, lost, out of time, or the worker stops."""
        return self._attempt.cancelled

    @property
    def variables(self) -> Mapping[str, Any]:
        """The task's variables; reading is free, `write_variables` changes them."""
        return self._attempt.variables

    @property
    def answers(self) -> Mapping[str, Any]:
        """The answers to the questions that the tool declared with `ask=`, by their names."""
        return self._attempt.answers

    def _log(self, level: Level, data: Any, logger: str | None) -> None:
        message = log_message(level, data, logger)
        write_log(message, data, f"{TOOL_LOGGERS}{self.tool}")
        self._attempt.log(message)

    def _calls(self, questions: Mapping[str, Question]) -> list[Call]:
        """The calls that questions are; each name is used once more.

        Raises:
            ClientCannot: One of them needs what the client did not declare.
        """
        refuse_inside_step("ask")
        declared = self._attempt.task.capabilities
        for question in questions.values():
            if question.needs not in declared and not _for_model(question, declared):
                raise ClientCannot(question.needs)
        kind, journal = EntryKind.ANSWER, self._journal
        return [
            Call(kind, journal.name_of_use(kind, name), question_digest(question))
            for name, question in questions.items()
        ]

    def _timer(self, duration: timedelta | float, name: str) -> tuple[JournalEntry, int, bool]:
        """The timer of a sleep, the milliseconds that are left of it, and whether it was recorded before."""
        refuse_inside_step("sleep")
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        call = Call(EntryKind.TIMER, self._journal.name_of_use(EntryKind.TIMER, name), "")
        now_ms = self._attempt.now_ms()
        if (met := self._journal.meet([call])) is not None:
            return met[0], int(met[0].value) - now_ms, True
        until_ms = now_ms + max(round(seconds * 1000), 0)
        entry = JournalEntry(kind=call.kind, name=call.name, digest="", value=JsonText(str(until_ms)))
        return entry, until_ms - now_ms, False


class TaskContext(_Context):
    """The context of a sync tool."""

    def check(self) -> None:
        """Stop here if the attempt is to stop; costs nothing, so call it in every loop.

        Raises:
            AttemptEnded: TaskCancelled, AttemptLost, AttemptTimedOut or WorkerStopping.
        """
        self._attempt.check()

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the tool is.

        Args:
            current: Any number that grows.
            total: What `current` grows to, if known.
            message: A sentence for people; becomes the task's status message.

        Raises:
            ValueError: Not a number, or one without end.
        """
        self._attempt.check()
        self._attempt.progress(*_finite(current, total), message)

    def log(self, level: Level, data: Any, *, logger: str | None = None) -> None:
        """Tell whoever waits for the task, and the worker's own log; nothing is recorded.

        Clients choose from which level on they are told. They see what is said here: keep secrets, and what
        helps an attacker, out of it. Of more than some dozens a second, the oldest are not sent.

        Args:
            level: How grave it is: `debug`, `info`, `notice`, `warning`, `error`, `critical`, `alert` or
                `emergency`.
            data: A sentence, or anything that is JSON; of more than 8 KiB, the beginning is sent as text.
            logger: Names what speaks; also the name in the worker's log, otherwise `tasks_service.tools.`
                and the tool's name.

        Raises:
            NotJson: The data cannot be written as JSON.
            ValueError: There is no such level.
        """
        self._attempt.check()
        self._log(level, data, logger)

    def debug(self, data: Any, *, logger: str | None = None) -> None:
        """See `log`."""
        self.log("debug", data, logger=logger)

    def info(self, data: Any, *, logger: str | None = None) -> None:
        """See `log`."""
        self.log("info", data, logger=logger)

    def warning(self, data: Any, *, logger: str | None = None) -> None:
        """See `log`."""
        self.log("warning", data, logger=logger)

    def error(self, data: Any, *, logger: str | None = None) -> None:
        """See `log`."""
        self.log("error", data, logger=logger)

    def track(
        self, items: Iterable[T], description: str | None = None, *, total: float | None = None
    ) -> Iterator[T]:
        """Iterate with progress: each item is a progress report and a checkpoint.

        Args:
            items: Anything iterable.
            description: Becomes the progress message.
            total: How many items there are; taken from `len(items)` where that works.
        """
        total = _total(items, total)
        done = 0
        self.progress(done, total, description)
        for done, item in enumerate(items, start=1):
            self._attempt.check()
            yield item
            self.progress(done, total, description)

    def write_variables(self, changes: Mapping[str, Any]) -> None:
        """Write several variables at once, in one transaction; a value of None deletes.

        Raises:
            NotJson: A value is not JSON.
            LimitExceeded: All variables together are too large.
        """
        self._attempt.check()
        self._attempt.write_variables(changes)

    @overload
    def elicit(
        self,
        message: str,
        schema: type[ModelT],
        *,
        name: str = ...,
        within: timedelta | None = ...,
        default: ModelT | Unanswered | None = ...,
        model_may_answer: bool = ...,
    ) -> ModelT | Unanswered: ...

    @overload
    def elicit(
        self,
        message: str,
        schema: Mapping[str, Any],
        *,
        name: str = ...,
        within: timedelta | None = ...,
        default: Mapping[str, Any] | Unanswered | None = ...,
        model_may_answer: bool = ...,
    ) -> Values | Unanswered: ...

    def elicit(
        self,
        message: str,
        schema: Any,
        *,
        name: str = "question",
        within: timedelta | None = None,
        default: Any = None,
        model_may_answer: bool = False,
    ) -> Any:
        """Ask a person for some values, and wait for as long as it takes; nothing is held meanwhile.

        Args:
            message: What the person reads.
            schema: A pydantic model, or a JSON schema of a flat object.
            name: Names the question, to the client as well; used again, it becomes `name#2`.
            within: How long the question stays open; the service's default is 7 days.
            default: What silence means: values, `Declined()` or `Cancelled()`. None: silence fails the task.
            model_may_answer: Whether a model may answer for the person, where its client knows no tasks.

        Returns:
            The model, or the values as a dict; `Declined` or `Cancelled` if the person gave none.

        Raises:
            ClientCannot: The client did not declare that it can be asked.
            ClientError: The client answered with an error.
            ConfigurationError: The schema cannot be asked.
        """
        return self._ask({name: Form(message, schema, model_may_answer)}, within, {name: default})[name]

    def elicit_url(
        self, message: str, url: str, *, name: str = "link", within: timedelta | None = None
    ) -> bool | Unanswered:
        """Ask a person to visit a page; True means that they agreed to, not that they have finished there.

        For what must not pass through the client: passwords, payments, consent at another service.
        """
        answer: bool | Unanswered = self._ask({name: Link(message, url)}, within, {})[name]
        return answer

    def elicit_all(
        self,
        questions: Mapping[str, Question],
        *,
        within: timedelta | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Ask several questions at once; they may be answered in any order, one by one or together.

        Args:
            questions: By name: `Form`, `Link`, `Sampling` or `Roots`.
            within: How long they stay open.
            defaults: What silence means, by name.

        Returns:
            The answers by name, as `elicit` would return each.
        """
        return self._ask(questions, within, defaults or {})

    def sample(
        self,
        messages: Sequence[SamplingMessage],
        *,
        max_tokens: int,
        system_prompt: str | None = None,
        name: str = "sample",
    ) -> CreateMessageResult:
        """Ask the client's model for a completion (deprecated in revision 2026-07-28, still in use)."""
        question = Sampling(messages, max_tokens, system_prompt)
        answer: CreateMessageResult = self._ask({name: question}, None, {})[name]
        return answer

    def list_roots(self, *, name: str = "roots") -> list[Root]:
        """Ask for the client's roots (deprecated in revision 2026-07-28, still in use)."""
        answer: list[Root] = self._ask({name: Roots()}, None, {})[name]
        return answer

    def step(
        self, name: str, fn: Callable[..., T], *args: Any, retry: RetryPolicy | None = None, **kwargs: Any
    ) -> T:
        """Do something once: when its result is recorded it never runs again, not after a crash either.

        A crash inside the step, before its result is recorded, runs it again; make it idempotent where that
        matters.

        Args:
            name: Names the step; used again, it becomes `name#2`.
            fn: What to do.
            args: For `fn`; they must be the same whenever the tool runs.
            retry: For exceptions of `fn`: waits and tries again within this attempt.
            kwargs: For `fn`.

        Returns:
            What `fn` returned, as its JSON reads back: of the type that `fn` declares to return, otherwise
            plain values. So the first run and every later one get the same.

        Raises:
            NotJson: The result cannot be written as JSON.
            LimitExceeded: The journal is full.
        """
        self._attempt.check()
        refuse_inside_step(f"take step {name!r}")
        call = step_call(self._journal, name, args, kwargs)
        if (met := self._journal.meet([call])) is not None:
            (entry,) = met
        else:
            with inside_step(name):
                entry = step_entry(call, self._tried(fn, args, kwargs, retry))
            self._attempt.record(entry)
        value: T = step_value(fn, entry.value)
        return value

    def sleep(self, duration: timedelta | float, *, name: str = "sleep") -> None:
        """Sleep durably: the attempt ends, and the tool runs on when the time has come.

        Args:
            duration: A timedelta, or seconds.
            name: Names the timer; used again, it becomes `name#2`.
        """
        self._attempt.check()
        timer, left_ms, recorded = self._timer(duration, name)
        if left_ms > SHORT_SLEEP_MS or not recorded:
            self._attempt.suspend(max(left_ms, 0), None if recorded else timer)
        time.sleep(max(left_ms, 0) / 1000)

    def _ask(
        self, questions: Mapping[str, Question], within: timedelta | None, defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._attempt.check()
        calls = self._calls(questions)
        if (met := self._journal.meet(calls)) is None:
            self._attempt.park(_asked(calls, questions, within, defaults))
        return _read(questions, met)

    def _tried(
        self, fn: Callable[..., T], args: Any, kwargs: Mapping[str, Any], retry: RetryPolicy | None
    ) -> T:
        for tries in range(1, STEP_ATTEMPTS + 1):
            try:
                return fn(*args, **kwargs)
            except Exception as error:
                if retry is None or not retry.wants(error) or tries == STEP_ATTEMPTS:
                    raise
            until = time.monotonic() + retry.delay_ms(tries) / 1000
            while (left := until - time.monotonic()) > 0:
                self._attempt.check()
                time.sleep(min(left, 0.25))
        raise AssertionError("the last try returns or raises")


class AsyncTaskContext(_Context):
    """The context of an async tool; the same, awaited. Safe under `gather` and task groups."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt)
        self._pause = Pause(attempt)

    async def check(self) -> None:
        """See `TaskContext.check`."""
        self._attempt.check()

    async def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """See `TaskContext.progress`."""
        self._attempt.check()
        self._attempt.progress(*_finite(current, total), message)

    async def log(self, level: Level, data: Any, *, logger: str | None = None) -> None:
        """See `TaskContext.log`."""
        self._attempt.check()
        self._log(level, data, logger)

    async def debug(self, data: Any, *, logger: str | None = None) -> None:
        """See `TaskContext.log`."""
        await self.log("debug", data, logger=logger)

    async def info(self, data: Any, *, logger: str | None = None) -> None:
        """See `TaskContext.log`."""
        await self.log("info", data, logger=logger)

    async def warning(self, data: Any, *, logger: str | None = None) -> None:
        """See `TaskContext.log`."""
        await self.log("warning", data, logger=logger)

    async def error(self, data: Any, *, logger: str | None = None) -> None:
        """See `TaskContext.log`."""
        await self.log("error", data, logger=logger)

    async def track(
        self, items: Iterable[T], description: str | None = None, *, total: float | None = None
    ) -> AsyncIterator[T]:
        """See `TaskContext.track`; iterate with `async for`."""
        total = _total(items, total)
        done = 0
        await self.progress(done, total, description)
        for done, item in enumerate(items, start=1):
            self._attempt.check()
            yield item
            await self.progress(done, total, description)

    async def write_variables(self, changes: Mapping[str, Any]) -> None:
        """See `TaskContext.write_variables`."""
        self._attempt.check()
        await asyncio.to_thread(self._attempt.write_variables, changes)

    @overload
    async def elicit(
        self,
        message: str,
        schema: type[ModelT],
        *,
        name: str = ...,
        within: timedelta | None = ...,
        default: ModelT | Unanswered | None = ...,
        model_may_answer: bool = ...,
    ) -> ModelT | Unanswered: ...

    @overload
    async def elicit(
        self,
        message: str,
        schema: Mapping[str, Any],
        *,
        name: str = ...,
        within: timedelta | None = ...,
        default: Mapping[str, Any] | Unanswered | None = ...,
        model_may_answer: bool = ...,
    ) -> Values | Unanswered: ...

    async def elicit(
        self,
        message: str,
        schema: Any,
        *,
        name: str = "question",
        within: timedelta | None = None,
        default: Any = None,
        model_may_answer: bool = False,
    ) -> Any:
        """See `TaskContext.elicit`. Branches that run at once give their questions different names."""
        return (await self._ask({name: Form(message, schema, model_may_answer)}, within, {name: default}))[
            name
        ]

    async def elicit_url(
        self, message: str, url: str, *, name: str = "link", within: timedelta | None = None
    ) -> bool | Unanswered:
        """See `TaskContext.elicit_url`."""
        answer: bool | Unanswered = (await self._ask({name: Link(message, url)}, within, {}))[name]
        return answer

    async def elicit_all(
        self,
        questions: Mapping[str, Question],
        *,
        within: timedelta | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """See `TaskContext.elicit_all`."""
        return await self._ask(questions, within, defaults or {})

    async def sample(
        self,
        messages: Sequence[SamplingMessage],
        *,
        max_tokens: int,
        system_prompt: str | None = None,
        name: str = "sample",
    ) -> CreateMessageResult:
        """See `TaskContext.sample`."""
        question = Sampling(messages, max_tokens, system_prompt)
        answer: CreateMessageResult = (await self._ask({name: question}, None, {}))[name]
        return answer

    async def list_roots(self, *, name: str = "roots") -> list[Root]:
        """See `TaskContext.list_roots`."""
        answer: list[Root] = (await self._ask({name: Roots()}, None, {}))[name]
        return answer

    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T] | T],
        *args: Any,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> T:
        """See `TaskContext.step`; `fn` may be a coroutine function. Concurrent steps have different names."""
        self._attempt.check()
        refuse_inside_step(f"take step {name!r}")
        call = step_call(self._journal, name, args, kwargs)
        if (met := self._journal.meet([call])) is not None:
            (entry,) = met
        else:
            await self._pause.proceed()
            with self._pause.busy():
                with inside_step(name):
                    entry = step_entry(call, await self._tried(fn, args, kwargs, retry))
                await asyncio.to_thread(self._attempt.record, entry)
        value: T = step_value(fn, entry.value)
        return value

    async def sleep(self, duration: timedelta | float, *, name: str = "sleep") -> None:
        """See `TaskContext.sleep`; other branches go on, and the task sleeps when none of them is busy."""
        self._attempt.check()
        timer, left_ms, recorded = self._timer(duration, name)
        if not recorded:
            await self._pause.proceed()
            with self._pause.busy():
                await asyncio.to_thread(self._attempt.record, timer)
        if left_ms > SHORT_SLEEP_MS:
            await self._pause.sleep(left_ms)
        await asyncio.sleep(max(left_ms, 0) / 1000)

    async def _ask(
        self, questions: Mapping[str, Question], within: timedelta | None, defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._attempt.check()
        calls = self._calls(questions)
        if (met := self._journal.meet(calls)) is None:
            await self._pause.ask(_asked(calls, questions, within, defaults))
        return _read(questions, met or [])

    async def _tried(
        self,
        fn: Callable[..., Awaitable[T] | T],
        args: Any,
        kwargs: Mapping[str, Any],
        retry: RetryPolicy | None,
    ) -> T:
        for tries in range(1, STEP_ATTEMPTS + 1):
            try:
                value = fn(*args, **kwargs)
                return await value if inspect.isawaitable(value) else value
            except Exception as error:
                if retry is None or not retry.wants(error) or tries == STEP_ATTEMPTS:
                    raise
            await asyncio.sleep(retry.delay_ms(tries) / 1000)
        raise AssertionError("the last try returns or raises")


_current: ContextVar[TaskContext | None] = ContextVar("tasks_service_context", default=None)


def current_context() -> TaskContext:
    """The context of the sync tool that runs now: for an exposed Celery task, and for code far below a tool.

    Raises:
        LookupError: No sync tool runs here.
    """
    if (context := _current.get()) is None:
        raise LookupError("No tool runs here; current_context() is for code that a sync tool calls")
    return context


@contextmanager
def running_in(context: TaskContext) -> Iterator[None]:
    """Let `current_context` find a context; for the engine of a worker."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def _asked(
    calls: Sequence[Call],
    questions: Mapping[str, Question],
    within: timedelta | None,
    defaults: Mapping[str, Any],
) -> dict[str, DomainQuestion]:
    open_ms = None if within is None else round(within.total_seconds() * 1000)
    asked = {}
    for call, (name, question) in zip(calls, questions.items(), strict=True):
        default = defaults.get(name)
        asked[call.name] = DomainQuestion(
            request=encode(question.recorded()),
            open_ms=open_ms,
            default=None if default is None else default_text(name, question, default),
            digest=call.digest,
        )
    return asked


def _read(questions: Mapping[str, Question], entries: Sequence[JournalEntry]) -> dict[str, Any]:
    pairs = zip(questions.items(), entries, strict=True)
    return {name: question.read(json.loads(entry.value)) for (name, question), entry in pairs}


def _finite(current: float, total: float | None) -> tuple[float, float | None]:
    """Numbers that JSON has."""
    if not math.isfinite(current) or not (total is None or math.isfinite(total)):
        raise ValueError(f"progress: expected finite numbers, got {current!r} of {total!r}")
    return current, total


def _for_model(question: Question, declared: frozenset[ClientCapability]) -> bool:
    """Whether the client's model may answer, even if nobody else can be asked."""
    return isinstance(question, Form) and question.model_may_answer and ClientCapability.MODEL in declared


def _total(items: Iterable[Any], total: float | None) -> float | None:
    return float(len(items)) if total is None and isinstance(items, Sized) else total
