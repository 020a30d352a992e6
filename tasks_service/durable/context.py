"""The contexts that running tools receive: identity, progress, variables, questions, steps and sleeps.

Every call on a context is also a checkpoint: if the client has cancelled, the lease was lost, the timeout has
passed or the worker stops, the call raises a subclass of `AttemptEnded`, which is not an `Exception`. A tool
that must clean up uses `finally`, as always.

Asking and sleeping end the attempt too: no process waits. When the answer arrives or the time has come, the
tool runs again from the top, and every call whose outcome is in the journal returns it at once (see
`journal`).
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, SupportsFloat, SupportsIndex, TypeVar, overload

from pydantic import BaseModel

from ..domain.errors import ClientCannot
from ..domain.events import Question as DomainQuestion
from ..domain.questions import encode
from ..domain.task import ClientCapability, EntryKind, Identity, JournalEntry
from .attempt import Attempt
from .children import AsyncChildren, Children
from .content import Message
from .journal import Call
from .log_messages import TOOL_LOGGERS, Level, log_message, write_log
from .progress import progress_of
from .questions import (
    Cancelled,
    Declined,
    Form,
    Link,
    Question,
    Roots,
    Sampling,
    compared_of,
    default_text,
    question_digest,
)
from .replies import ModelReply, Root
from .retry import RetryPolicy
from .sdk_objects import SDKObject
from .steps import AsyncSteps, Steps, refuse_inside_step, step_call, step_value
from .suspension import Suspension
from .timers import Timer, timer_of

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)
Values = dict[str, Any]
Unanswered = Declined | Cancelled
Number = SupportsFloat | SupportsIndex

SHORT_SLEEP_MS = 50
"""Milliseconds of a sleep that are waited for in the same attempt."""

STEP_ATTEMPTS = 5
"""Most attempts at a step that has a retry policy, within one attempt of its tool."""


class _Context:
    """The part that both contexts share; its properties never block."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._journal = attempt.journal

    @property
    def task_id(self) -> str:
        """The task's id, as the client knows it."""
        return self._attempt.task.task_id

    @property
    def owner(self) -> str:
        """The owner of the task: an opaque, stable hash."""
        return self._attempt.task.owner

    @property
    def caller(self) -> Identity:
        """Who has called: subject, client, scopes and chosen claims of a token, or the name of an API key.

        Inside a tool that another tool has submitted, who called that one. It is who called: a token that has
        ended since, or was taken back, changes nothing here.
        """
        return self._attempt.caller

    @property
    def traceparent(self) -> str:
        """The W3C trace parent of the call that made the task; empty if it had none."""
        return self._attempt.task.trace

    @property
    def tool(self) -> str:
        """The tool's name."""
        return self._attempt.task.tool

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1; counted anew after each question and each sleep."""
        return self._attempt.task.attempts

    @property
    def claims(self) -> int:
        """How often the task has been claimed, this time included."""
        return self._attempt.task.claims

    @property
    def cancelled(self) -> bool:
        """Whether this attempt must stop: cancelled, lost, timed out, or the worker stops."""
        return self._attempt.cancelled

    @property
    def variables(self) -> Mapping[str, Any]:
        """The task's variables; reading sends nothing, `write_variables` changes them."""
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
        """The journal calls of some questions; counts one use of each name.

        Raises:
            ClientCannot: A question needs a capability that the client did not declare.
        """
        refuse_inside_step("ask")
        declared = self._attempt.task.capabilities
        for question in questions.values():
            if question.needs not in declared and not _for_model(question, declared):
                raise ClientCannot(question.needs)
        kind, journal = EntryKind.ANSWER, self._journal
        asked = {name: question.recorded() for name, question in questions.items()}
        return [
            Call(kind, journal.name_of_use(kind, name), question_digest(recorded), compared_of(recorded))
            for name, recorded in asked.items()
        ]

    def _timer(self, duration: timedelta | float, name: str) -> Timer:
        """The timer of a sleep."""
        refuse_inside_step("sleep")
        return timer_of(self._attempt, duration, name)


class TaskContext(_Context):
    """The context of a sync tool."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt)
        self._steps = Steps(attempt)
        self._children = Children(attempt, self._steps)

    @property
    def children(self) -> Children:
        """For the engine: see `TaskService.submit`."""
        return self._children

    def check(self) -> None:
        """Stop here if the attempt must stop; cheap enough for every loop.

        Raises:
            AttemptEnded: TaskCancelled, AttemptLost, AttemptTimedOut or WorkerStopping.
        """
        self._attempt.check()

    def progress(self, current: Number, total: Number | None = None, message: object = None) -> None:
        """Report how far the tool is.

        Args:
            current: A number that grows, of any kind: `int`, `float`, `Decimal`, one of NumPy.
            total: The value of `current` at the end, if known.
            message: A sentence for people, or anything that `str` makes one of; becomes the task's status
                message.

        Raises:
            TypeError: One is no number.
            ValueError: A number is NaN or infinite.
        """
        self._attempt.check()
        self._attempt.progress(progress_of(current, total, message))

    def log(self, level: Level, data: Any, *, logger: str | None = None) -> None:
        """Send a log message to clients that wait for the task, and to the worker's log; records nothing.

        Clients choose the lowest level that they receive. They read the message: keep secrets, and what
        helps an attacker, out of it. Above some dozens of messages a second, the oldest are not sent.

        Args:
            level: The severity: `debug`, `info`, `notice`, `warning`, `error`, `critical`, `alert` or
                `emergency`.
            data: A sentence, or any JSON value; of more than 8 KiB, the beginning is sent as text.
            logger: The name of the logger, for clients and in the worker's log; by default the worker's log
                has `tasks_service.tools.` and the tool's name.

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
        """Iterate over items, with a progress report and a checkpoint for each.

        Args:
            items: Any iterable.
            description: The progress message.
            total: The number of items; by default `len(items)`, where it has a length.
        """
        total = _length_of(items, total)
        done = 0
        self.progress(done, total, description)
        for done, item in enumerate(items, start=1):
            self._attempt.check()
            yield item
            self.progress(done, total, description)

    def write_variables(self, changes: Mapping[str, Any]) -> None:
        """Write several variables in one transaction; a value of None deletes the variable.

        Raises:
            NotJson: A value cannot be written as JSON.
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
        """Ask a person to fill in a form; the task waits, and no process waits with it.

        Args:
            message: The text that the person reads.
            schema: A pydantic model, or a JSON schema of a flat object.
            name: The question's name, which the client sees too; used again, it becomes `name#2`.
            within: How long the question stays open; 7 days by default.
            default: The answer if none comes in time: values, `Declined()` or `Cancelled()`. None: the task
                fails.
            model_may_answer: Whether a model may answer for the person, where its client knows no tasks.

        Returns:
            The model, or the values as a dict; `Declined` or `Cancelled` if the person gave none.

        Raises:
            ClientCannot: The client did not declare that it can be asked.
            ClientError: The client answered with an error.
            ConfigurationError: Clients cannot render a form of this schema.
        """
        return self._ask({name: Form(message, schema, model_may_answer)}, within, {name: default})[name]

    def elicit_url(
        self, message: str, url: str, *, name: str = "link", within: timedelta | None = None
    ) -> bool | Unanswered:
        """Ask a person to visit a page; True means that they agreed to go, not that they finished there.

        Use it for what must not pass through the client: passwords, payments, consent at another service.

        Args:
            message: Why the person should go there.
            url: The page: `https://...`, or `http://...` on a loopback address, without user or password.
            name: The question's name; used again, it becomes `name#2`.
            within: How long the question stays open; 7 days by default.

        Raises:
            ConfigurationError: The URL is none that a person may be sent to.
            ClientCannot: The client did not declare that it can send people to pages.
            ClientError: The client answered with an error.
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
            questions: The questions by name: `Form`, `Link`, `Sampling` or `Roots`.
            within: How long they stay open.
            defaults: The answers if none come in time, by name.

        Returns:
            The answers by name, each as `elicit` would return it.
        """
        return self._ask(questions, within, defaults or {})

    def sample(
        self,
        messages: str | Sequence[str | Message | SDKObject],
        *,
        max_tokens: int,
        system_prompt: str | None = None,
        name: str = "sample",
    ) -> ModelReply:
        """Ask the client's model for a completion (deprecated in revision 2026-07-28, still in use).

        Args:
            messages: What the model is told: a text, or a sequence of texts and messages.
            max_tokens: The longest completion.
            system_prompt: None leaves that to the client.
            name: The question's name; used again, it becomes `name#2`.

        Raises:
            ClientCannot: The client did not declare that it can be asked.
            ClientError: The client answered with an error.
        """
        question = Sampling(messages, max_tokens, system_prompt)
        answer: ModelReply = self._ask({name: question}, None, {})[name]
        return answer

    def list_roots(self, *, name: str = "roots") -> list[Root]:
        """Ask for the client's roots (deprecated in revision 2026-07-28, still in use)."""
        answer: list[Root] = self._ask({name: Roots()}, None, {})[name]
        return answer

    def step(
        self, name: str, fn: Callable[..., T], *args: Any, retry: RetryPolicy | None = None, **kwargs: Any
    ) -> T:
        """Run a function as a step: once its result is recorded it never runs again, even after a crash.

        After a crash inside the step, before its result is recorded, it runs again; make it idempotent where
        that matters.

        Args:
            name: The step's name; used again, it becomes `name#2`.
            fn: The function.
            args: Its arguments; they must be the same whenever the tool runs.
            retry: Which exceptions of `fn` are retried, within this attempt, and after which delay.
            kwargs: Its keyword arguments.

        Returns:
            The result of `fn`, read back from its JSON: of the type that `fn` declares to return, otherwise
            plain values. So every attempt gets the same.

        Raises:
            NotJson: The result cannot be written as JSON.
            LimitExceeded: The journal is full.
        """
        self._attempt.check()
        refuse_inside_step(f"take step {name!r}")
        call = step_call(self._journal, name, args, kwargs)
        entry = self._steps.once(call, lambda: self._with_retries(fn, args, kwargs, retry))
        value: T = step_value(fn, entry.value)
        return value

    def sleep(self, duration: timedelta | float, *, name: str = "sleep") -> None:
        """Sleep durably: the attempt ends, and the tool goes on when the time has come.

        Args:
            duration: A timedelta, or seconds.
            name: The timer's name; used again, it becomes `name#2`.
        """
        self._attempt.check()
        timer, left_ms, recorded = self._timer(duration, name)
        if left_ms > SHORT_SLEEP_MS or not recorded:
            self._attempt.suspend(max(left_ms, 0), None if recorded else timer)
        self._attempt.clock.sleep(max(left_ms, 0) / 1000)

    def _ask(
        self, questions: Mapping[str, Question], within: timedelta | None, defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._attempt.check()
        calls = self._calls(questions)
        if (entries := self._journal.match(calls)) is None:
            self._attempt.park(_domain_questions(calls, questions, within, defaults))
        return _answers_of(questions, entries)

    def _with_retries(
        self, fn: Callable[..., T], args: Any, kwargs: Mapping[str, Any], retry: RetryPolicy | None
    ) -> T:
        for attempt in range(1, STEP_ATTEMPTS + 1):
            try:
                return fn(*args, **kwargs)
            except Exception as error:
                if retry is None or not retry.applies_to(error) or attempt == STEP_ATTEMPTS:
                    raise
            clock = self._attempt.clock
            until = clock.monotonic() + retry.delay_ms(attempt) / 1000
            while (left := until - clock.monotonic()) > 0:
                self._attempt.check()
                clock.sleep(min(left, 0.25))
        raise AssertionError("the last attempt returns or raises")


class AsyncTaskContext(_Context):
    """The context of an async tool: `TaskContext` with coroutines, safe under `gather` and task groups."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt)
        self._suspension = Suspension(attempt)
        self._steps = AsyncSteps(attempt, self._suspension)
        self._children = AsyncChildren(attempt, self._steps, self._suspension)

    @property
    def children(self) -> AsyncChildren:
        """For the engine: see `TaskService.asubmit`."""
        return self._children

    async def check(self) -> None:
        """See `TaskContext.check`."""
        self._attempt.check()

    async def progress(self, current: Number, total: Number | None = None, message: object = None) -> None:
        """See `TaskContext.progress`."""
        self._attempt.check()
        self._attempt.progress(progress_of(current, total, message))

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
        total = _length_of(items, total)
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
        """See `TaskContext.elicit`; concurrent branches must give their questions different names."""
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
        messages: str | Sequence[str | Message | SDKObject],
        *,
        max_tokens: int,
        system_prompt: str | None = None,
        name: str = "sample",
    ) -> ModelReply:
        """See `TaskContext.sample`."""
        question = Sampling(messages, max_tokens, system_prompt)
        answer: ModelReply = (await self._ask({name: question}, None, {}))[name]
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
        """See `TaskContext.step`; `fn` may be a coroutine function. Concurrent steps need different names."""
        self._attempt.check()
        refuse_inside_step(f"take step {name!r}")
        call = step_call(self._journal, name, args, kwargs)
        entry = await self._steps.once(call, lambda: self._with_retries(fn, args, kwargs, retry))
        value: T = step_value(fn, entry.value)
        return value

    async def sleep(self, duration: timedelta | float, *, name: str = "sleep") -> None:
        """See `TaskContext.sleep`; other branches go on, and the attempt ends when none of them is busy."""
        self._attempt.check()
        timer, left_ms, recorded = self._timer(duration, name)
        if not recorded:
            await self._steps.record(timer)
        if left_ms > SHORT_SLEEP_MS:
            await self._suspension.sleep(left_ms)
        await self._attempt.clock.sleep_async(max(left_ms, 0) / 1000)

    async def _ask(
        self, questions: Mapping[str, Question], within: timedelta | None, defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._attempt.check()
        calls = self._calls(questions)
        if (entries := self._journal.match(calls)) is None:
            await self._suspension.ask(_domain_questions(calls, questions, within, defaults))
        return _answers_of(questions, entries or [])

    async def _with_retries(
        self,
        fn: Callable[..., Awaitable[T] | T],
        args: Any,
        kwargs: Mapping[str, Any],
        retry: RetryPolicy | None,
    ) -> T:
        for attempt in range(1, STEP_ATTEMPTS + 1):
            try:
                value = fn(*args, **kwargs)
                return await value if inspect.isawaitable(value) else value
            except Exception as error:
                if retry is None or not retry.applies_to(error) or attempt == STEP_ATTEMPTS:
                    raise
            await self._attempt.clock.sleep_async(retry.delay_ms(attempt) / 1000)
        raise AssertionError("the last attempt returns or raises")


RunningContext = TaskContext | AsyncTaskContext
"""The context of a tool that runs."""

_current: ContextVar[RunningContext | None] = ContextVar("tasks_service_context", default=None)


def current_context() -> TaskContext:
    """The context of the sync tool that runs now, for exposed Celery tasks and for code that a tool calls.

    Raises:
        LookupError: No sync tool runs here.
    """
    context = _current.get()
    if context is None or isinstance(context, AsyncTaskContext):
        raise LookupError("No tool runs here; current_context() is for code that a sync tool calls")
    return context


def running_context() -> RunningContext | None:
    """The context of the tool that runs here, sync or async; None if none does."""
    return _current.get()


@contextmanager
def running_in(context: RunningContext) -> Iterator[None]:
    """Make a context that of the tool that runs here; for the engine of a worker."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def _domain_questions(
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


def _answers_of(questions: Mapping[str, Question], entries: Sequence[JournalEntry]) -> dict[str, Any]:
    pairs = zip(questions.items(), entries, strict=True)
    return {name: question.read(json.loads(entry.value)) for (name, question), entry in pairs}


def _for_model(question: Question, declared: frozenset[ClientCapability]) -> bool:
    """Whether the client's model may answer, even if nobody else can be asked."""
    return isinstance(question, Form) and question.model_may_answer and ClientCapability.MODEL in declared


def _length_of(items: Iterable[Any], total: float | None) -> float | None:
    return float(len(items)) if total is None and isinstance(items, Sized) else total
