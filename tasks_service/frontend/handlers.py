"""What `tools/call` and `tasks/*` do: domain in, domain out, whatever the revision and the transport.

Every call of a tool is a durable execution underneath. Whether the caller sees a task or waits for the
result is decided here; how either looks is the wire modules' business.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..domain.errors import InvalidTransition, StoreUnavailable, TaskNotFound
from ..domain.events import AnswerInput, Cancel, Create, Reveal
from ..domain.limits import Limits, to_json
from ..domain.task import JsonText, Owner, Policy, Task, TaskStatus
from ..questions import check_answer
from ..store.base import AsyncTaskStore, TaskView, new_task_id
from ..tool import TaskSupport, Tool, ToolRegistry
from .calls import (
    CallCancelled,
    CallTooLong,
    HandleRequired,
    InputRequired,
    QuestionWithoutHandle,
    ToolCall,
    digest,
    request_digest,
)
from .preflight import NOTHING_ASKED, Answered, Preflight
from .push import ChangeFeed
from .reporting import Reporting

logger = logging.getLogger(__name__)

GIVE_UP_SECONDS = 2.0
"""How long the cancellation of an abandoned execution is tried; it ends by its own deadlines otherwise."""


class Handlers:
    """The service's answers to its callers.

    Args:
        tools: What can be called.
        store: Where executions are recorded.
        feed: Says when they change.
        preflight: Asks what tools want to know before anything is recorded.
        limits: What is allowed.
        shards: Of the store; new task ids are spread over them.
        wait_limit: Seconds that a call without a handle may wait.
    """

    def __init__(
        self,
        *,
        tools: ToolRegistry,
        store: AsyncTaskStore,
        feed: ChangeFeed,
        preflight: Preflight,
        limits: Limits,
        shards: int,
        wait_limit: float,
    ) -> None:
        self._tools = tools
        self._store = store
        self._feed = feed
        self._preflight = preflight
        self._limits = limits
        self._shards = shards
        self._wait_limit = wait_limit

    async def call(
        self, owner: Owner, call: ToolCall, reporting: Reporting | None = None
    ) -> Task | TaskView | InputRequired:
        """Call a tool.

        If the caller goes away (this coroutine is cancelled) before it holds a handle, or has waited as long
        as it may, the execution is cancelled, unless an idempotency key lets the caller come back for it
        (docs/protocol.md, "a client that hangs up").

        Args:
            owner: Who calls.
            call: What.
            reporting: Takes what the tool says while the caller waits.

        Returns:
            A task whose handle is to be given out, or the end of an execution that has completed or failed,
            or what the tool asks before anything is recorded.

        Raises:
            UnknownTool: There is no such tool.
            HandleRequired: The tool only runs as a task, and the caller takes none.
            CapabilityRequired: The tool asks first, and the client cannot be asked.
            StateRefused: The state that came with answers is not this call's, or too old.
            InvalidArguments, NotJson, LimitExceeded: The arguments are refused; nothing was recorded.
            QuotaExceeded: Too many tasks.
            IdempotencyConflict: The key was used with another request.
            StoreUnavailable: Not recorded as far as is known.
            CallCancelled, CallTooLong, QuestionWithoutHandle: A call without handle that has no result.
        """
        tool = self._tools.find(call.tool)
        if tool.support is TaskSupport.REQUIRED and not call.takes_handle:
            raise HandleRequired(tool.name)
        handle = call.takes_handle and tool.support is not TaskSupport.FORBIDDEN
        grace_ms = tool.grace_ms if tool.support is TaskSupport.OPTIONAL else 0
        event = self.creation(owner, call, visible=handle and not grace_ms)
        if isinstance(event, InputRequired):
            return event
        if event.visible:
            return await self.record(event)
        returns = call.idempotency_key is not None
        try:
            # Before there is a task, so that nothing that its tool says is missed.
            with self._feed.hear(event.task_id, reporting):
                if handle:
                    return await self._within_grace(event, grace_ms / 1000, reporting)
                return await self._to_the_end(event, reporting, returns=returns)
        except asyncio.CancelledError:
            if not returns:
                await self.give_up(owner, event.task_id)
            raise

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
            await self._store.act(owner, task_id, AnswerInput(answers=checked))
        except InvalidTransition:
            logger.debug("answers to a task that asks nothing any more were acknowledged and dropped")

    async def cancel(self, owner: Owner, task_id: str) -> None:
        """Cancel a task; one that has ended stays as it is (docs/protocol.md, "answers").

        Raises:
            TaskNotFound: Unknown, foreign, malformed, hidden or expired.
            StoreUnavailable: No answer in time.
        """
        try:
            await self._store.act(owner, task_id, Cancel())
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
        return Create(
            task_id=new_task_id(owner, self._shards),
            owner=owner,
            tool=tool.name,
            queue=tool.queue,
            arguments=arguments,
            policy=_kept(tool.policy, call.ttl_ms),
            era=call.era,
            capabilities=call.capabilities,
            trace=call.trace,
            visible=visible,
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

    async def _within_grace(
        self, event: Create, seconds: float, reporting: Reporting | None
    ) -> Task | TaskView:
        """A plain result if it is there within the grace; a handle otherwise, and for a question."""
        created = await self._store.create(event)
        if created.task.visible:
            return created.task
        view = await self._outcome(created.task, seconds, reporting)
        if view is None or not view.task.status.is_final:
            return await self._reveal(created.task)
        return _ended(view)

    async def _to_the_end(self, event: Create, reporting: Reporting | None, *, returns: bool) -> TaskView:
        created = await self._store.create(event)
        view = await self._outcome(created.task, self._wait_limit, reporting)
        if view is not None and view.task.status.is_final:
            return _ended(view)
        if not returns:
            await self.give_up(event.owner, event.task_id)
        raise CallTooLong(self._wait_limit) if view is None else QuestionWithoutHandle

    async def _reveal(self, task: Task) -> Task:
        return await self._store.act(task.owner, task.task_id, Reveal(), hidden=True)

    async def _outcome(self, task: Task, seconds: float, reporting: Reporting | None) -> TaskView | None:
        """Wait until a task has ended, or asks; None if it has not after so many seconds.

        A store that does not answer for a while is waited for: the execution is not affected by that.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        with self._feed.watch(task.task_id) as watcher, self._feed.hear(task.task_id, reporting):
            while True:
                view = await self._view(task)
                if view is not None and reporting is not None:
                    reporting.advance(view.task.progress)
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

    async def give_up(self, owner: Owner, task_id: str) -> None:
        """Cancel an execution that nobody waits for any more; also one whose creation was cut off."""
        event = Cancel(reason="The caller went away.")
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await self._store.act(owner, task_id, event, hidden=True)
        except (TaskNotFound, InvalidTransition):
            return
        except (StoreUnavailable, TimeoutError) as error:
            logger.warning("An abandoned execution could not be cancelled and runs on: %s", error)


def _kept(policy: Policy, ttl_ms: int | None) -> Policy:
    """The policy with what the client wants of it: up to the longest life of a task."""
    return policy if ttl_ms is None else replace(policy, ttl_ms=min(ttl_ms, policy.cap_ms))


def _ended(view: TaskView) -> TaskView:
    if view.task.status is TaskStatus.CANCELLED:
        raise CallCancelled
    return view
