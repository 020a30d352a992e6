"""The work of `tools/call` and `tasks/*`: domain in, domain out, whatever the revision and the transport.

Every call of a tool is a durable execution underneath. Whether the caller sees a task or waits for the
result is decided here; how either looks is the wire modules' business.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ...authoring.tool import Rendered
from ...domain.decide import poll_interval_ms
from ...domain.digests import digest, request_digest
from ...domain.errors import InvalidTransition, StoreUnavailable, TaskNotFound
from ...domain.events import CallerLeft, Cancel, ClientEvent, Create, MakeVisible
from ...domain.limits import Limits, to_json
from ...domain.names import new_task_id
from ...domain.questions import open_questions
from ...domain.task import ClientCapability, Owner, Policy, Task, TaskStatus
from ...domain.tools import TaskSupport, ToolDefinition
from ...observability.context import note_action
from ...store.clients import AsyncClientStore, TaskView
from .answers import asked_again, check_answers, record_answers
from .catalogue import Catalogue
from .change_feed import ChangeFeed
from .companion_tools import CompanionTools, handle
from .hand_over import HandOverTimes
from .poll_limits import PollLimits
from .pre_task_questions import NOTHING_ASKED, Asking, PreTaskQuestions
from .reports import Reporting
from .request_state import RequestStates, binding_of, refused
from .requests import (
    CallCancelled,
    CapabilityRequired,
    HandleRequired,
    InputRequired,
    ToolCall,
)
from .task_watch import watch_task
from .waiting_calls import WaitingCall, WaitingCalls

logger = logging.getLogger(__name__)

REVEALS = 3
"""How often it is tried to give out the handle of a task that was recorded."""

_EXECUTION = "execution"
"""The purpose of a state that names an execution which asks."""


class Executions:
    """Records calls of tools as executions, waits for them, and answers for their tasks.

    Args:
        catalogue: The tools that can be called.
        store: Where executions are recorded.
        feed: Says when they change.
        pre_task_questions: Asks what tools want to know before anything is recorded.
        states: Seals what clients bring back with the answers to an execution's questions.
        limits: What is allowed.
        shards: Of the store; new task ids are spread over them.
        companion_tools: The tools with which models follow tasks, if they are listed.
        hand_over_times: How long calls wait before a model is told how to follow them with those.
        waiting_calls: Lets calls wait.
        poll_limits: Refuse polls that come far too often.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        store: AsyncClientStore,
        feed: ChangeFeed,
        pre_task_questions: PreTaskQuestions,
        states: RequestStates,
        limits: Limits,
        shards: int,
        companion_tools: CompanionTools | None,
        hand_over_times: HandOverTimes,
        waiting_calls: WaitingCalls,
        poll_limits: PollLimits,
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._feed = feed
        self._pre_task_questions = pre_task_questions
        self._states = states
        self._limits = limits
        self._shards = shards
        self._companion_tools = companion_tools
        self._hand_over_times = hand_over_times
        self._waiting_calls = waiting_calls
        self._poll_limits = poll_limits

    async def call(
        self, owner: Owner, call: ToolCall, reporting: Reporting | None = None
    ) -> Task | TaskView | InputRequired | Rendered:
        """Call a tool.

        If the caller goes away (this coroutine is cancelled) before it holds a handle, or has waited as long
        as it may, the execution is cancelled; with an idempotency key, only if the caller does not come back
        for it within the reconnect window (docs/protocol.md, "a client that disconnects").

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
        if self._companion_tools is not None and call.tool in self._companion_tools.tools:
            return await self._call_companion(self._companion_tools, owner, call, reporting)
        note_action(call.trace)
        tool = self._catalogue.tools.find(call.tool).definition
        if tool.support is TaskSupport.REQUIRED and not call.takes_handle:
            raise HandleRequired(tool.name)
        takes_handle = call.takes_handle and tool.support is not TaskSupport.FORBIDDEN
        grace_ms = tool.grace_ms if tool.support is TaskSupport.OPTIONAL else 0
        may_reconnect = call.idempotency_key is not None
        too_late = None if self.hands_over_after(tool, call) is None else self.hand_over
        if (task_id := self._continued(owner, call)) is not None:
            waiting = WaitingCall(owner, task_id, may_reconnect, reporting)
            continued = self._continue(waiting, call, tool, handle=takes_handle)
            return await self._waiting_calls.hold(waiting, continued, too_late=too_late)
        event = self.creation(owner, call, visible=takes_handle and not grace_ms)
        if isinstance(event, InputRequired):
            return event
        if event.visible:
            return await self.record(event)
        waiting = WaitingCall(owner, event.task_id, may_reconnect, reporting)
        if takes_handle:
            within_grace = self._within_grace(waiting, event, grace_ms / 1000)
            return await self._waiting_calls.hold(waiting, within_grace, too_late=self._reveal)
        begun = self._begin(waiting, event, call, tool)
        return await self._waiting_calls.hold(waiting, begun, too_late=too_late)

    def hands_over_after(self, tool: ToolDefinition, call: ToolCall) -> float | None:
        """The seconds after which a call is answered with a text that names its task.

        None if it is not: it takes a handle, its tool forbids one, or the tools to go on with are not listed.
        """
        possible = tool.support is TaskSupport.OPTIONAL and not call.takes_handle
        if not possible or self._companion_tools is None:
            return None
        return self._hand_over_times.of(call.client, tool)

    async def hand_over(self, task: Task) -> Rendered:
        """Make a task visible, and write the text that names it."""
        return handle(await self._reveal(task), self._catalogue.tools.find(task.tool).definition)

    def creation(self, owner: Owner, call: ToolCall, *, visible: bool) -> Create | InputRequired:
        """Make the event that records a call, or ask what is still to be asked before there is a task.

        Args:
            owner: Who calls.
            call: What.
            visible: Whether the handle is given out at once.

        Raises:
            UnknownTool, CapabilityRequired, StateRefused: See `call`.
            InvalidArguments, NotJson, LimitExceeded: See `call`.
        """
        note_action(call.trace)
        offered = self._catalogue.tools.find(call.tool)
        tool = offered.definition
        asking = Asking(tool.name, tool.ask)
        if tool.ask:
            self._pre_task_questions.require(asking, call.capabilities)
        arguments = offered.check_arguments(call.arguments, self._limits)
        asked = self._pre_task_questions.next_round(owner, asking, call) if tool.ask else NOTHING_ASKED
        if isinstance(asked, InputRequired):
            return asked
        name = call.idempotency_key or asked.conversation
        told = self.hands_over_after(tool, call) is not None
        capabilities = call.capabilities | {ClientCapability.MODEL} if told else call.capabilities
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
            reconnect_ms=self._waiting_calls.reconnect_ms,
            resumable_ms=self._states.life_ms if asked.conversation else 0,
            idempotency=digest(name) if name else "",
            request_digest=request_digest(call.tool, call.arguments) if name else "",
            journal=asked.journal,
            caller=call.caller,
        )

    async def get(self, owner: Owner, task_id: str) -> TaskView:
        """Read a task for a client that polls: one read, no write.

        Raises:
            TaskNotFound: Unknown, foreign, malformed, hidden or expired.
            RateExceeded: It is polled far more often than its clients were told.
            StoreUnavailable: No answer in time.
        """
        self._poll_limits.check(owner, task_id)
        view = await self._store.get(owner, task_id)
        self._poll_limits.note(owner, task_id, poll_interval_ms(view.task))
        return view

    async def answer(self, owner: Owner, task_id: str, answers: Mapping[str, Any]) -> None:
        """Answer a task's questions: all answers are recorded, or none (docs/protocol.md, "answers").

        Keys of no open question are ignored.

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
        to_json("answers", known, maximum=self._limits.answers_bytes, depth=self._limits.depth)
        checked = check_answers(open_questions(view.task), known, self._limits)
        for error in checked.refused.values():
            raise error
        await record_answers(self._store, owner, task_id, checked.fitting)

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

    async def _within_grace(self, waiting: WaitingCall, event: Create, seconds: float) -> Task | TaskView:
        """Wait for a plain result as long as the grace; a question, or a longer wait, gives a handle."""
        task = waiting.found((await self._store.create(event)).task)
        if task.visible:
            return task
        view = await self._until_news(task, seconds, reporting=waiting.reporting)
        return _ended(view) if view.task.status.is_final else await self._reveal(task)

    async def _begin(
        self, waiting: WaitingCall, event: Create, call: ToolCall, tool: ToolDefinition
    ) -> TaskView | InputRequired | Rendered:
        task = waiting.found((await self._store.create(event)).task)
        return await self._to_the_end(waiting, task, call, tool, {})

    def _continued(self, owner: Owner, call: ToolCall) -> str | None:
        """Find the execution that a call goes on with; None if it begins one, or is still asked before.

        Raises:
            StateRefused: The state that came with the call is not this call's, or too old.
        """
        if call.state is None:
            return None
        to_json("arguments", call.arguments, maximum=self._limits.arguments_bytes, depth=self._limits.depth)
        opened = self._states.open(binding_of(owner, call.tool, call.arguments), call.state)
        return str(opened.content["task"]) if opened.purpose == _EXECUTION else None

    async def _continue(
        self, waiting: WaitingCall, call: ToolCall, tool: ToolDefinition, *, handle: bool
    ) -> Task | TaskView | InputRequired | Rendered:
        """Take the answers that fit, and wait on; the same round again changes nothing."""
        try:
            task = waiting.found((await self._store.get(waiting.owner, waiting.task_id, hidden=True)).task)
        except TaskNotFound:
            raise refused("its execution is gone") from None
        checked = check_answers(open_questions(task), call.answers, self._limits)
        await self._possibly(
            record_answers(self._store, task.owner, task.task_id, checked.fitting, hidden=True)
        )
        if handle:
            return await self._reveal(task)
        return await self._to_the_end(waiting, task, call, tool, checked.problems)

    async def _to_the_end(
        self,
        waiting: WaitingCall,
        task: Task,
        call: ToolCall,
        tool: ToolDefinition,
        problems: Mapping[str, str],
    ) -> TaskView | InputRequired | Rendered:
        handed_after = self.hands_over_after(tool, call)
        async with asyncio.timeout(handed_after or self._waiting_calls.wait_limit):
            while True:
                view = await self._until_news(task, None, reporting=waiting.reporting)
                if view.task.status.is_final:
                    return _ended(view)
                required = self._asked(waiting.owner, call, view.task, problems)
                if required is None:
                    if handed_after is not None:
                        return await self.hand_over(task)
                    raise await self._unaskable(waiting, call, view.task)
                leaving = CallerLeft(within_ms=self._states.life_ms)
                if view.task.visible or await self._possibly(self._apply(task, leaving)):
                    return required

    def _asked(
        self, owner: Owner, call: ToolCall, task: Task, problems: Mapping[str, str]
    ) -> InputRequired | None:
        """Ask a caller without a handle, who calls again with the answers; None if it cannot be asked."""
        if _missing(call, task):
            return None
        binding = binding_of(owner, call.tool, call.arguments)
        questions = {
            key: asked_again(question, problems.get(key)) for key, question in open_questions(task).items()
        }
        state = self._states.seal(binding, _EXECUTION, {"task": task.task_id})
        return InputRequired(questions=questions, state=state)

    async def _unaskable(self, waiting: WaitingCall, call: ToolCall, task: Task) -> CapabilityRequired:
        """Leave the execution; with a state or a key the caller may come back, able to be asked."""
        waiting.may_reconnect = waiting.may_reconnect or call.state is not None
        await self._waiting_calls.leave(waiting)
        return CapabilityRequired(task.tool, _missing(call, task))

    async def _call_companion(
        self, companion_tools: CompanionTools, owner: Owner, call: ToolCall, reporting: Reporting | None
    ) -> TaskView | InputRequired | Rendered:
        if call.state is not None and self._continued(owner, call) is None:
            raise refused("it does not belong to a task")
        wait = partial(self._until_news, reporting=reporting)
        return await companion_tools.call(owner, call, wait=wait, ask=partial(self._asked, owner, call))

    async def _possibly(self, change: Awaitable[Task | None]) -> bool:
        """Try to change a task; False if it is too late, or the store does not answer."""
        try:
            return await change is not None
        except (TaskNotFound, InvalidTransition):
            return False
        except StoreUnavailable as error:
            logger.warning("A waiting call cannot write to its task for now: %s", error)
            await asyncio.sleep(self._feed.timings.retry)
            return False

    async def _reveal(self, task: Task) -> Task:
        """Make a task visible. A call that is recorded is not refused for a store that is busy for a moment.

        Raises:
            StoreUnavailable: It was busy for longer; it says that the call may have been recorded.
        """
        for _ in range(REVEALS):
            try:
                return await self._apply(task, MakeVisible())
            except StoreUnavailable as error:
                logger.warning("The handle of a task cannot be given out for now: %s", error)
                error.may_have_applied, failure = True, error
                await asyncio.sleep(self._feed.timings.retry)
        raise failure

    async def _apply(self, task: Task, event: ClientEvent) -> Task:
        return await self._store.apply(task.owner, task.task_id, event, hidden=True)

    async def _until_news(
        self, task: Task, seconds: float | None, *, reporting: Reporting | None
    ) -> TaskView:
        """Wait until a task ends or asks; `TimeoutError` after so many seconds."""

        async def look(latest: Task) -> float | None:
            if reporting is not None:
                reporting.advance(latest.progress)
            return math.inf if latest.status is TaskStatus.WORKING else None

        async with asyncio.timeout(seconds):
            return await watch_task(
                self._store, self._feed, task.owner, task.task_id, look, reporting=reporting
            )


def _kept(policy: Policy, ttl_ms: int | None) -> Policy:
    """The policy with the client's own ttl, up to that of the tool, whose author knows what it costs."""
    return policy if ttl_ms is None else replace(policy, ttl_ms=min(ttl_ms, policy.ttl_ms))


def _missing(call: ToolCall, task: Task) -> list[ClientCapability]:
    """What the client would have to declare to be asked what a task asks."""
    kinds = dict.fromkeys(question.kind for question in open_questions(task).values())
    return [kind for kind in kinds if kind not in call.capabilities]


def _ended(view: TaskView) -> TaskView:
    if view.task.status is TaskStatus.CANCELLED:
        raise CallCancelled(view.task.status_message)
    return view
