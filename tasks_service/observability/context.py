"""The context of what a process does now: which task, for whom, asked by which request.

The log and the audit log both read it. It is in a context variable, so each thread and each asyncio task has
its own, and what is begun within a block inherits it: the coroutine of an async tool on its loop as well. A
thread that a tool starts by itself does not, unless it is run in `contextvars.copy_context()`.
"""

from __future__ import annotations

import getpass
import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ..domain.names import task_hash
from ..domain.traces import trace_id


@dataclass(slots=True)
class Source:
    """Whoever asks.

    Attributes:
        owner: Its hash; empty: not known, or nobody.
        name: The name of its API key; empty: it has none.
        address: The IP address; empty: none, or not looked at.
        operator: Who ran a command, as the system names them.
        lines: How many lines of the audit log were written of what it asks now.
    """

    owner: str = ""
    name: str = ""
    address: str = ""
    operator: str = ""
    lines: int = 0


@dataclass(slots=True)
class Context:
    """What is done now.

    Attributes:
        source: Who asks for it.
        request: The id of the request, which this process has drawn; empty: it is none.
        task: The short name of the task; empty: none, or not known yet.
        tool: The tool; empty: none, or one that there is not.
        service: The service whose tool it is; empty: the only one of this process.
        attempt: The number of the attempt that runs, as the tool's `ctx.attempt`; 0: none.
        claim: The number of its claim, which is never counted anew; 0: none.
        trace: The id of the W3C trace that the client named; empty: it named none.
        acts: Whether it does something, or tries to, and does not only look.
    """

    source: Source = field(default_factory=Source)
    request: str = ""
    task: str = ""
    tool: str = ""
    service: str = ""
    attempt: int = 0
    claim: int = 0
    trace: str = ""
    acts: bool = False

    def fields(self) -> dict[str, Any]:
        """What a line of the log says of it, without what is empty."""
        found: dict[str, Any] = {}
        if self.service:
            found["service"] = self.service
        if self.task:
            found["task"] = self.task
        if self.tool:
            found["tool"] = self.tool
        if self.attempt:
            found["attempt"] = self.attempt
            found["claim"] = self.claim
        if owner := self.source.name or self.source.owner:
            found["owner"] = owner
        if self.request:
            found["request"] = self.request
        if self.trace:
            found["trace"] = self.trace
        return found


_context: ContextVar[Context | None] = ContextVar("tasks_service_context", default=None)

current = _context.get
"""The context of what is done now; None outside of all."""


class within:  # noqa: N801 - it is used as a function
    """Do what is in the block, and asyncio tasks that are begun in it, in a context."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Context:
        self._token = _context.set(self._context)
        return self._context

    def __exit__(self, *raised: object) -> None:
        _context.reset(self._token)


def of_task(reference: str, tool: str = "") -> within:
    """Do what is in the block for a task, whoever asked for it.

    Args:
        reference: Its id or its name.
        tool: Its tool, if that is known.
    """
    return within(Context(task=task_hash(reference), tool=tool))


@contextmanager
def asked_by(source: Source, request: str = "") -> Iterator[Source]:
    """Say who asks for what is done in the block.

    Args:
        source: Who.
        request: The id of the request; empty: each has one of its own.
    """
    with within(Context(source, request)):
        yield source


def note_task(task_id: str, tool: str = "", trace: str = "") -> None:
    """Say which task it is about; of several, the first is kept.

    Args:
        task_id: Its id, or what was asked for as one.
        tool: The tool that it is of, if that is known to exist.
        trace: The W3C trace parent of the call that made it.
    """
    if (context := _context.get()) is not None:
        if not context.task and task_id:
            context.task = task_hash(task_id)
        context.tool = context.tool or tool
        if trace and not context.trace:
            context.trace = trace_id(trace)


def note_action(trace: str = "") -> None:
    """Say that something is done, and not only looked at.

    Args:
        trace: The W3C trace parent that the client named.
    """
    if (context := _context.get()) is not None:
        context.acts = True
        if trace and not context.trace:
            context.trace = trace_id(trace)


def note_owner(owner: str, name: str = "") -> None:
    """Say who asks, once that is known.

    Args:
        owner: Its hash.
        name: The name of its API key, if it has one.
    """
    if (context := _context.get()) is not None:
        context.source.owner, context.source.name = owner, name


def operator() -> Source:
    """Whoever runs this process, as a source."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = str(os.geteuid())
    return Source(operator=name)


class _RequestIds:
    """Ids of requests: random for each process, and counted in it, since a random one costs more."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Draw another beginning, as a forked process must."""
        self._beginning, self._numbers = secrets.token_hex(5), itertools.count(1)

    def next(self) -> str:
        return f"{self._beginning}-{next(self._numbers):x}"


_request_ids = _RequestIds()
os.register_at_fork(after_in_child=_request_ids.begin_anew)

new_request_id = _request_ids.next
"""Draw the id of a request, which no other request has, in any process."""
