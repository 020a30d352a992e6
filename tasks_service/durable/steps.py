"""Steps: running each once, their journal entries, and reading their results back."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any

import pydantic_core
from pydantic import BaseModel, PydanticUserError, TypeAdapter

from ..domain.errors import NotJson
from ..domain.limits import DEFAULT_LIMITS, to_json
from ..domain.task import EntryKind, JournalEntry
from .attempt import Attempt
from .journal import Call, Journal
from .suspension import Suspension

_inside: ContextVar[str | None] = ContextVar("tasks_service_step", default=None)


def step_call(journal: Journal, name: str, args: Any, kwargs: Mapping[str, Any]) -> Call:
    """The journal call of a step, with a digest of its arguments.

    Raises:
        NotJson: The arguments cannot be written as JSON, and so not compared between attempts.
    """
    try:
        text = pydantic_core.to_json(_in_order([args, kwargs]), bytes_mode="base64")
    except (pydantic_core.PydanticSerializationError, ValueError) as error:
        raise NotJson(f"arguments of step {name!r}", str(error)) from None
    digest = blake2b(text, digest_size=8).hexdigest()
    return Call(EntryKind.STEP, journal.name_of_use(EntryKind.STEP, name), digest, text.decode())


def step_entry(call: Call, value: Any) -> JournalEntry:
    """The journal entry of a step that has returned.

    Raises:
        NotJson: The result cannot be written as JSON.
        LimitExceeded: The result is larger than the whole journal may be.
    """
    what = f"result of step {call.name!r}"
    try:
        plain = pydantic_core.to_jsonable_python(value)
    except (pydantic_core.PydanticSerializationError, ValueError) as error:
        raise NotJson(what, str(error)) from None
    text = to_json(what, plain, maximum=DEFAULT_LIMITS.journal_bytes)
    return JournalEntry(kind=call.kind, name=call.name, digest=call.digest, value=text)


def step_value(fn: Callable[..., Any], text: str) -> Any:
    """A recorded result, converted to the type that the function declares if pydantic knows that type."""
    try:
        returns = inspect.signature(fn, eval_str=True).return_annotation
        adapter = TypeAdapter[Any](Any if returns is inspect.Signature.empty else returns)
    except (TypeError, ValueError, NameError, PydanticUserError):
        return json.loads(text)
    return adapter.validate_json(text)


class Steps:
    """Runs what must not happen twice in a sync tool.

    Args:
        attempt: The attempt, whose journal is read and written.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def once(self, call: Call, run: Callable[[], Any]) -> JournalEntry:
        """What a call has come to, in an earlier attempt or now."""
        if (entries := self._attempt.journal.match([call])) is not None:
            return entries[0]
        with inside_step(call.name):
            entry = step_entry(call, run())
        self._attempt.record(entry)
        return entry


class AsyncSteps:
    """`Steps` for an async tool, whose attempt does not end while one is taken.

    Args:
        attempt: See `Steps`.
        suspension: Ends the attempt.
    """

    def __init__(self, attempt: Attempt, suspension: Suspension) -> None:
        self._attempt, self._suspension = attempt, suspension

    async def once(self, call: Call, run: Callable[[], Awaitable[Any]]) -> JournalEntry:
        """See `Steps.once`."""
        if (entries := self._attempt.journal.match([call])) is not None:
            return entries[0]
        await self._suspension.wait_until_open()
        with self._suspension.busy():
            with inside_step(call.name):
                entry = step_entry(call, await run())
            await asyncio.to_thread(self._attempt.record, entry)
        return entry

    async def record(self, entry: JournalEntry) -> None:
        """Record an entry."""
        await self._suspension.wait_until_open()
        with self._suspension.busy():
            await asyncio.to_thread(self._attempt.record, entry)


@contextmanager
def inside_step(name: str) -> Iterator[None]:
    """Mark the code that runs here as part of a step, which may not ask, sleep or take steps."""
    token = _inside.set(name)
    try:
        yield
    finally:
        _inside.reset(token)


def refuse_inside_step(what: str) -> None:
    """Refuse a durable call inside a step: its entry would be left over when the step does not run again.

    Raises:
        RuntimeError: A step runs here; the message names it.
    """
    if (name := _inside.get()) is not None:
        raise RuntimeError(f"Step {name!r} may not {what}: steps hold neither questions, sleeps nor steps")


def _in_order(value: Any) -> Any:
    """The value with sets and mappings sorted, so that its JSON is the same in every process."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif is_dataclass(value) and not isinstance(value, type):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, Mapping):
        return {key: _in_order(part) for key, part in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, set | frozenset):
        return sorted((_in_order(part) for part in value), key=pydantic_core.to_json)
    return [_in_order(part) for part in value] if isinstance(value, list | tuple) else value
