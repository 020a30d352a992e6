"""Requests and refusals in the service's own words, which are no protocol revision's.

Wire modules make these from a request, and turn refusals into error codes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...domain.errors import TasksServiceError
from ...domain.questions import RecordedQuestion
from ...domain.task import NOT_RECORDED, ClientCapability, Identity, Owner
from ...store.announcements import Listed
from ..transport.outgoing import Outgoing


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request, as transports hand it to methods.

    Attributes:
        owner: Whose tasks it is about.
        identity: Who that is.
        expires_at: When the proof of that runs out, in seconds since the epoch. No stream that the client can
            open again outlives it; a call that waits for its result was allowed when it was made.
        still_holds: Says whether the proof still holds, for one that may be taken back before it runs out.
    """

    owner: Owner
    identity: Identity
    expires_at: float | None = None
    still_holds: Callable[[], Awaitable[bool]] | None = None

    @property
    def may_end(self) -> bool:
        """Whether the proof can run out, or be taken back."""
        return self.expires_at is not None or self.still_holds is not None

    async def proof_ended(self, recheck: float) -> None:
        """Return when the proof has run out or holds no more; never, if it cannot.

        Args:
            recheck: Seconds between two looks whether it holds, and at the clock, which may be set.
        """
        while self.expires_at is None or (left := self.expires_at - time.time()) > 0:
            await asyncio.sleep(recheck if self.expires_at is None else min(left, recheck))
            if self.still_holds is not None and not await self.still_holds():
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        tool: The name that was asked for.
        arguments: As they came; nothing is checked yet.
        era: The protocol revision of the call.
        takes_handle: Whether the client can be answered with a task instead of a result.
        capabilities: What the client can be asked.
        client: The client, as it names itself; empty if it does not.
        trace: W3C trace parent of the call, or empty.
        idempotency_key: The client's own name for this call, or None.
        answers: To the questions that an earlier round of this call was answered with, by key, as they came.
        state: What that round handed out, or None; see `InputRequired.state`.
        ttl_ms: How long the client wants its task to be kept; None leaves that to the tool's author.
        caller: Who calls, for the tool.
    """

    tool: str
    arguments: Mapping[str, Any]
    era: str
    takes_handle: bool
    capabilities: frozenset[ClientCapability] = frozenset()
    client: str = ""
    trace: str = ""
    idempotency_key: str | None = None
    answers: Mapping[str, Any] = field(default_factory=dict)
    state: str | None = None
    ttl_ms: int | None = None
    caller: Identity = NOT_RECORDED


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCall:
    """A request for a prompt's messages.

    Attributes:
        prompt: The name that was asked for.
        arguments: As they came; nothing is checked yet.
        capabilities: What the client can be asked.
        answers: See `ToolCall.answers`.
        state: See `ToolCall.state`.
    """

    prompt: str
    arguments: Mapping[str, str]
    capabilities: frozenset[ClientCapability] = frozenset()
    answers: Mapping[str, Any] = field(default_factory=dict)
    state: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequired:
    """The answer to a call that needs answers: before anything is recorded, or before its execution goes on.

    Attributes:
        questions: What is still asked, by key.
        state: To be sent back with the answers; sealed, so that nobody can read or change it.
    """

    questions: Mapping[str, RecordedQuestion]
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The changes that a client wants to be told of.

    Attributes:
        task_ids: Tasks whose changes; None if it named no list of them.
        lists: Lists whose changes.
        resources: URIs of resources whose changes.
    """

    task_ids: tuple[str, ...] | None = None
    lists: tuple[Listed, ...] = ()
    resources: tuple[str, ...] = ()


class InvalidRequest(TasksServiceError):
    """A field of the request has the wrong shape; the message names it and what was expected."""


class HandleRequired(TasksServiceError):
    """The tool only runs as a task, and the client did not say that it can take one."""

    def __init__(self, tool: str) -> None:
        super().__init__(f"The tool '{tool}' runs as a task; declare the tasks extension to call it")
        self.tool = tool


class CapabilityRequired(TasksServiceError):
    """A tool or prompt asks something that the client did not say it can be asked.

    Attributes:
        name: Of the tool or prompt.
        needs: All that it asks for and the client lacks.
    """

    def __init__(self, name: str, needs: Sequence[ClientCapability]) -> None:
        super().__init__(
            f"'{name}' asks its client, which did not declare that it can be asked for this: "
            f"{', '.join(needs)}"
        )
        self.name, self.needs = name, needs


class StateRefused(TasksServiceError):
    """The state that came with answers is not one that this caller was given for this call, or is too old."""

    def __init__(self) -> None:
        super().__init__(
            "Invalid or expired requestState; make the call again without it, and be asked again"
        )


class FunctionFailed(TasksServiceError):
    """The function of a resource, prompt or completion has not come to a result; the log says why.

    Attributes:
        what: What was being done.
        reason: What the caller may know of it.
    """

    def __init__(self, what: str, reason: str = "its function failed") -> None:
        super().__init__(f"{what} failed: {reason}")
        self.what, self.reason = what, reason


class CallCancelled(TasksServiceError):
    """Somebody cancelled the execution that a call was waiting for.

    Args:
        told: What its task says of it, a sentence; None: nothing.
    """

    def __init__(self, told: str | None) -> None:
        super().__init__(f"The call was cancelled. {told or ''}".strip())


class CallTooLong(TasksServiceError):
    """A call without a handle waited as long as it may.

    Attributes:
        seconds: How long that was.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The tool did not end within {seconds:g} s; "
            "a client that declares the tasks extension gets a task instead, and need not wait"
        )
        self.seconds = seconds


class QuestionWithoutHandle(TasksServiceError):
    """The tool asked something, and a call without a handle has no way to answer."""

    def __init__(self) -> None:
        super().__init__(
            "The tool asked for input, which this call cannot give; "
            "a client that declares the tasks extension gets a task, and can answer"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestScope:
    """A request, as the transport hands it to the methods.

    Attributes:
        caller: Who sent it.
        outgoing: Goes to the client before the answer; for methods that stream.
        may_stream: Whether the client takes what goes out.
    """

    caller: Caller
    outgoing: Outgoing
    may_stream: bool
