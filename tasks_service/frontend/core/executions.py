"""What `tools/call` and `tasks/*` do: domain in, domain out, whatever the revision and the transport.

Every call of a tool is a durable execution underneath. Whether the caller sees a task or waits for the
result is decided here; how either looks is the wire modules' business.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from ...authoring.tool import Rendered, TaskSupport, Tool, ToolRegistry
from ...domain.errors import ExecutionForgotten, InvalidTransition, StoreUnavailable, TaskNotFound
from ...domain.events import AnswerInput, CallerLeft, CallerReturned, Cancel, ClientEvent, Create, MakeVisible
from ...domain.limits import Limits, to_json
from ...domain.names import new_task_id
from ...domain.task import SECOND, JsonText, Owner, Policy, Task, TaskStatus
from ...durable.questions import check_answer
from ...store.clients import AsyncTaskStore, TaskView
from .change_feed import ChangeFeed
from .companion_tools import CompanionTools, handle, with_model
from .pre_task_questions import NOTHING_ASKED, Answered, PreTaskQuestions, asked_again, sort_out
from .reports import Reporting
from .request_state import RequestStates, binding_of, refused
from .requests import (
    CallCancelled,
    CallTooLong,
    CapabilityRequired,
    HandleRequired,
    InputRequired,
    ToolCall,
    digest,
    request_digest,
)

logger = logging.getLogger(__name__)

GIVE_UP_SECONDS = 2.0
"""How long the cancellation of an abandoned execution is tried; it ends by its own deadlines otherwise."""

WRITE_SECONDS = 0.5
"""Pause after a write that the store did not take, before it may be tried again."""

Ended = TypeVar("Ended")

_EXECUTION = "execution"
"""The purpose of a state that names an execution which asks."""


@dataclass(slots=True)
class _Waiting:
    """A call that waits, and what becomes of its execution if it leaves.

    Attributes:
        task_id: What it waits for.
        may_reconnect: Whether it has a key to come back with.
        reporting: Takes what the tool says meanwhile.
        has_handle: Whether somebody was given the handle; then nothing becomes of it.
    """

    owner: Owner
    task_id: str
    may_reconnect: bool
    reporting: Reporting | None
    has_handle: bool = False

    def found(self, task: Task) -> Task:
        """The task that the call waits for."""
        self.task_id, self.has_handle = task.task_id, task.visible
        return task


class Handlers:
    """The service's answers to its callers.

    Args:
        tools: What can be called.
        store: Where executions are recorded.
        feed: Says when they change.
        preflight: Asks what tools want to know before anything is recorded.
        states: Seals what clients bring back with the answers to an execution's questions.
        limits: What is allowed.
        shards: Of the store; new task ids are spread over them.
        wait_limit: Seconds that a call without a handle may wait.
        companions: The tools with which models follow tasks, if they are listed.
        handle_after: Seconds that a call waits before a model is told how to follow it with them.
        reconnect_window: Seconds that an execution is kept for a caller that left and has a key to come back
            with.
    """

    def __init__(
        self,
        *,
        tools: ToolRegistry,
        store: AsyncTaskStore,
        feed: ChangeFeed,
        preflight: PreTaskQuestions,
        states: RequestStates,
        limits: Limits,
        shards: int,
        wait_limit: float,
        companions: CompanionTools | None,
        handle_after: float,
        reconnect_window: float,
    ) -> None:
        self._tools = tools
        self._store = store
        self._feed = feed
        self._preflight = preflight
        self._states = states
        self._limits = limits
        self._shards = shards
        self._wait_limit = wait_limit
        self._companions = companions
        self._handle_after = min(handle_after, wait_limit)
        self._reconnect_ms = round(reconnect_window * SECOND)

    async def call(
        self, owner: Owner, call: ToolCall, reporting: Reporting | None = None
    ) -> Task | TaskView | InputRequired | Rendered:
        """Call a tool.

        If the caller goes away (this coroutine is cancelled) before it holds a handle, or has waited as long
        as it may, the execution is cancelled; with an idempotency key, only if the caller does not come back
        for it within the reconnect window (docs/protocol.md, "a client that hangs up").

        Args:
            owner: Who calls.
            call: What.
            reporting: Takes what the tool says while the caller waits.

        Returns:
            A task whose handle is to be given out, or the end of an execution that has completed or failed,
            or what the tool asks: before anything is recorded, or, of a caller that gets no handle, before
            its execution goes on; or a result that this service has made itself: of a tool with which models
            follow tasks, or the text that tells them to.

        Raises:
            UnknownTool: There is no such tool.
            HandleRequired: The tool only runs as a task, and the caller takes none.
            CapabilityRequired: The tool asks, and the client cannot be asked.
            StateRefused: The state that came with answers is not this call's, or too old.
            InvalidArguments, NotJson, LimitExceeded: The arguments are refused; nothing was recorded.
            QuotaExceeded: Too many tasks.
            IdempotencyConflict: The key was used with another request.
            StoreUnavailable: Not recorded as far as is known.
            ExecutionForgotten: Recorded, and forgotten by the store while the call waited.
            CallCancelled, CallTooLong: A call without handle that has no result.
        """
        if self._companions is not None and call.tool in self._companions.tools:
            return await self._accompany(self._companions, owner, call, reporting)
        tool = self._tools.find(call.tool)
        if tool.support is TaskSupport.REQUIRED and not call.takes_handle:
            raise HandleRequired(tool.name)
        takes_handle = call.takes_handle and tool.support is not TaskSupport.FORBIDDEN
        grace_ms = tool.grace_ms if tool.support is TaskSupport.OPTIONAL else 0
        may_reconnect = call.idempotency_key is not None
        if (task_id := self._continued(owner, call)) is not None:
            waiting = _Waiting(owner, task_id, may_reconnect, reporting)
            return await self._watched(waiting, self._continue(waiting, call, tool, handle=takes_handle))
        event = self.creation(owner, call, visible=takes_handle and not grace_ms)
        if isinstance(event, InputRequired):
            return event
        if event.visible:
            return await self.record(event)
        waiting = _Waiting(owner, event.task_id, may_reconnect, reporting)
        if takes_handle:
            return await self._watched(waiting, self._within_grace(waiting, event, grace_ms / 1000))
        return await self._watched(waiting, self._begin(waiting, event, call, tool))

    def hands_over_after(self, tool: Tool, call: ToolCall) -> float | None:
        """Seconds after which a call is answered with a text that names its task.

        None if it is not: it takes a handle, its tool forbids one, or the tools to go on with are not listed.
        """
        possible = tool.support is TaskSupport.OPTIONAL and not call.takes_handle
        return self._handle_after if possible and self._companions is not None else None

    async def hand_over(self, task: Task) -> Rendered:
        """The text that names a task, which is visible from now on."""
        return handle(await self._reveal(task), self._tools.find(task.tool))

    def creation(self, owner: Owner, call: ToolCall, *, visible: bool) -> Create | InputRequired:
        """The event that records a call, once nothing is asked any more before there is a task.

        Args:
            owner: Who calls.
            call: What.
            visible: Whether the handle is given out at once.

        Raises:
            UnknownTool, CapabilityRequired, StateRefused: See `call`.
            InvalidArguments, NotJson, LimitExceeded: See `call`.
        """
        tool = self._tools.find(call.tool)
        if tool.ask:
            self._preflight.require(tool, call.capabilities)
        arguments = tool.check_arguments(call.arguments, self._limits)
        asked = self._preflight.next_round(owner, tool, call) if tool.ask else NOTHING_ASKED
        if isinstance(asked, InputRequired):
            return asked
        return self._creation(owner, tool, call, arguments, asked, visible=visible)

    async def get(self, owner: Owner, task_id: str) -> TaskView:
        """Read a task: one read, no write.

        Raises:
            TaskNotFound: Unknown, foreign, malformed, hidden or expired.
            StoreUnavailable: No answer in time.
        """
        return await self._store.get(owner, task_id)

    async def answer(self, owner: Owner, task_id: str, answers: Mapping[str, Any]) -> None:
        """Answer a task's questions: all that is known, or nothing (docs/protocol.md, "answers").

        Unknown and answered keys are ignored; a task that asks nothing has only such. Answers that arrive at
        the same time do no harm: `decide` ignores what has been answered since the questions were read.

        Args:
            owner: Whose task it is.
            task_id: Which.
            answers: By key, as the client sent them.

        Raises:
            TaskNotFound: Unknown, foreign, malformed, hidden or expired.
            AnswerRefused: One does not fit its question; all questions stay open.
            LimitExceeded: The answers are too large together.
            StoreUnavailable: No answer in time.
        """
        view = await self._store.get(owner, task_id)
        known = {key: answers[key] for key in view.task.inputs if key in answers}
        if not known:
            return
        to_json("answers", known, maximum=self._limits.answers_bytes, depth=self._limits.depth)
        checked = {
            key: check_answer(key, json.loads(view.task.inputs[key].request), answer)
            for key, answer in known.items()
        }
        try:
            await self._store.apply(owner, task_id, AnswerInput(answers=checked))
        except InvalidTransition:
            logger.debug("answers to a task that asks nothing any more were acknowledged and dropped")

    async def cancel(self, owner: Owner, task_id: str) -> None:
        """Cancel a task; one that has ended stays as it is (docs/protocol.md, "answers").

        Raises:
            TaskNotFound: Unknown, foreign, malformed, hidden or expired.
            StoreUnavailable: No answer in time.
        """
        try:
            await self._store.apply(owner, task_id, Cancel())
        except InvalidTransition:
            logger.debug("the cancellation of a task that has ended was acknowledged")

    def _creation(
        self,
        owner: Owner,
        tool: Tool,
        call: ToolCall,
        arguments: JsonText,
        asked: Answered,
        *,
        visible: bool,
    ) -> Create:
        name = call.idempotency_key or asked.conversation
        told = self.hands_over_after(tool, call) is not None
        capabilities = with_model(call.capabilities) if told else call.capabilities
        return Create(
            task_id=new_task_id(owner, self._shards),
            owner=owner,
            tool=tool.name,
            queue=tool.queue,
            arguments=arguments,
            policy=_kept(tool.policy, call.ttl_ms),
            era=call.era,
            capabilities=capabilities,
            trace=call.trace,
            visible=visible,
            reconnect_ms=self._reconnect_ms,
            resumable_ms=self._states.life_ms if asked.conversation else 0,
            idempotency=digest(name) if name else "",
            request_digest=request_digest(call.tool, call.arguments) if name else "",
            journal=asked.journal,
        )

    async def record(self, event: Create) -> Task:
        """Record a call as a task whose handle is given out at once, or find it under its idempotency key.

        Raises:
            QuotaExceeded, IdempotencyConflict, LimitExceeded: Nothing was recorded.
            StoreUnavailable: Not recorded as far as is known.
        """
        created = await self._store.create(event)
        if created.task.visible:
            return created.task
        return await self._reveal(created.task)

    async def _watched(self, waiting: _Waiting, work: Coroutine[Any, Any, Ended]) -> Ended:
        """Wait; if the caller goes away meanwhile, say so to the execution."""
        try:
            # Before there is a task, so that nothing that its tool says is missed.
            with self._feed.subscribe_reports(waiting.task_id, waiting.reporting):
                return await work
        except asyncio.CancelledError:
            await self._left(waiting)
            raise
        except TaskNotFound:
            raise ExecutionForgotten from None

    async def _within_grace(self, waiting: _Waiting, event: Create, seconds: float) -> Task | TaskView:
        """A plain result if it is there within the grace; a handle otherwise, and for a question."""
        task = waiting.found((await self._store.create(event)).task)
        if task.visible:
            return task
        view = await self._outcome(task, seconds, waiting.reporting)
        if view is None or not view.task.status.is_final:
            return await self._reveal(task)
        return _ended(view)

    async def _begin(
        self, waiting: _Waiting, event: Create, call: ToolCall, tool: Tool
    ) -> TaskView | InputRequired | Rendered:
        task = waiting.found((await self._store.create(event)).task)
        return await self._to_the_end(waiting, task, call, tool, {})

    def _continued(self, owner: Owner, call: ToolCall) -> str | None:
        """The execution that a call goes on with; None if it begins one, or is still asked before.

        Raises:
            StateRefused: The state that came with the call is not this call's, or too old.
        """
        if call.state is None:
            return None
        to_json("arguments", call.arguments, maximum=self._limits.arguments_bytes, depth=self._limits.depth)
        opened = self._states.open(binding_of(owner, call.tool, call.arguments), call.state)
        return str(opened.content["task"]) if opened.purpose == _EXECUTION else None

    async def _continue(
        self, waiting: _Waiting, call: ToolCall, tool: Tool, *, handle: bool
    ) -> Task | TaskView | InputRequired | Rendered:
        """Take the answers that fit, and wait on; the same round again changes nothing."""
        try:
            task = waiting.found((await self._store.get(waiting.owner, waiting.task_id, hidden=True)).task)
        except TaskNotFound:
            raise refused("its execution is gone") from None
        recorded = {key: json.loads(asked.request) for key, asked in task.inputs.items()}
        fitting, problems = sort_out(recorded, call.answers)
        if fitting:
            await self._possibly(task, AnswerInput(answers=fitting))
        if handle:
            return await self._reveal(task)
        return await self._to_the_end(waiting, task, call, tool, problems)

    async def _to_the_end(
        self, waiting: _Waiting, task: Task, call: ToolCall, tool: Tool, problems: Mapping[str, str]
    ) -> TaskView | InputRequired | Rendered:
        clock, handed_after = asyncio.get_running_loop().time, self.hands_over_after(tool, call)
        until = clock() + (self._wait_limit if handed_after is None else handed_after)
        while True:
            view = await self._outcome(task, until - clock(), waiting.reporting)
            if view is None:
                if handed_after is not None:
                    return await self.hand_over(task)
                await self._left(waiting)
                raise CallTooLong(self._wait_limit)
            if view.task.status.is_final:
                return _ended(view)
            required = self._asked(waiting.owner, call, view.task, problems)
            if required is None:
                if handed_after is not None:
                    return await self.hand_over(task)
                raise await self._unaskable(waiting, call, view.task)
            if view.task.visible or await self._possibly(task, CallerLeft(within_ms=self._states.life_ms)):
                return required

    def _asked(
        self, owner: Owner, call: ToolCall, task: Task, problems: Mapping[str, str]
    ) -> InputRequired | None:
        """What a caller without a handle is asked, to call again with the answers; None if it cannot be."""
        if _missing(call, task):
            return None
        binding = binding_of(owner, call.tool, call.arguments)
        questions = {
            key: asked_again(json.loads(asked.request), problems.get(key))
            for key, asked in task.inputs.items()
        }
        state = self._states.seal(binding, _EXECUTION, {"task": task.task_id})
        return InputRequired(questions=questions, state=state)

    async def _unaskable(self, waiting: _Waiting, call: ToolCall, task: Task) -> CapabilityRequired:
        """Nobody waits any more; with a state or a key the caller may come back, able to be asked."""
        waiting.may_reconnect = waiting.may_reconnect or call.state is not None
        await self._left(waiting)
        return CapabilityRequired(task.tool, _missing(call, task))

    async def _accompany(
        self, companions: CompanionTools, owner: Owner, call: ToolCall, reporting: Reporting | None
    ) -> TaskView | InputRequired | Rendered:
        if call.state is not None and self._continued(owner, call) is None:
            raise refused("it does not belong to a task")
        wait = partial(self._outcome, reporting=reporting)
        return await companions.call(owner, call, wait=wait, ask=partial(self._asked, owner, call))

    async def _possibly(self, task: Task, event: ClientEvent) -> bool:
        """Whether the event happened; it may come too late, or to a store that does not answer."""
        try:
            await self._store.apply(task.owner, task.task_id, event, hidden=True)
        except (TaskNotFound, InvalidTransition):
            return False
        except StoreUnavailable as error:
            logger.warning("A waiting call cannot write to its task for now: %s", error)
            await asyncio.sleep(WRITE_SECONDS)
            return False
        return True

    async def _reveal(self, task: Task) -> Task:
        return await self._store.apply(task.owner, task.task_id, MakeVisible(), hidden=True)

    async def _outcome(self, task: Task, seconds: float, reporting: Reporting | None) -> TaskView | None:
        """Wait until a task has ended, or asks; None if it has not after so many seconds.

        A store that does not answer for a while is waited for: the execution is not affected by that.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        with self._feed.watch(task.task_id) as watcher, self._feed.subscribe_reports(task.task_id, reporting):
            while True:
                view = await self._view(task)
                if view is not None and reporting is not None:
                    reporting.advance(view.task.progress)
                if view is not None and view.task.return_by_ms and view.task.status is TaskStatus.WORKING:
                    await self._possibly(task, CallerReturned())
                if view is not None and view.task.status is not TaskStatus.WORKING:
                    await self._feed.catch_up(view.task)
                    return view
                if (left := until - clock()) <= 0:
                    return None
                await watcher.changed(left)

    async def _view(self, task: Task) -> TaskView | None:
        try:
            return await self._store.get(task.owner, task.task_id, hidden=True)
        except StoreUnavailable as error:
            logger.warning("A waiting call cannot read its task for now: %s", error)
            return None

    async def _left(self, waiting: _Waiting) -> None:
        if not waiting.has_handle:
            await self.abandon(waiting.owner, waiting.task_id, may_reconnect=waiting.may_reconnect)

    async def abandon(self, owner: Owner, task_id: str, *, may_reconnect: bool = False) -> None:
        """Say that nobody waits for an execution any more; also for one whose creation was cut off.

        Args:
            owner: Whose it is.
            task_id: Which.
            may_reconnect: Whether its caller may: then it is cancelled only after the reconnect window.
        """
        leaving = Cancel(reason="The caller went away.", unheld=True)
        event = CallerLeft(within_ms=self._reconnect_ms) if may_reconnect else leaving
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await self._store.apply(owner, task_id, event, hidden=True)
        except (TaskNotFound, InvalidTransition):
            return
        except (StoreUnavailable, TimeoutError) as error:
            logger.warning("An abandoned execution could not be cancelled and runs on: %s", error)


def _kept(policy: Policy, ttl_ms: int | None) -> Policy:
    """The policy with what the client wants of it: up to the longest life of a task."""
    return policy if ttl_ms is None else replace(policy, ttl_ms=min(ttl_ms, policy.max_lifetime_ms))


def _missing(call: ToolCall, task: Task) -> list[str]:
    """What the client would have to declare to be asked what a task asks."""
    askable = json.loads(call.capabilities or "[]")
    kinds = dict.fromkeys(json.loads(asked.request)["kind"] for asked in task.inputs.values())
    return [kind for kind in kinds if kind not in askable]


def _ended(view: TaskView) -> TaskView:
    if view.task.status is TaskStatus.CANCELLED:
        raise CallCancelled
    return view
