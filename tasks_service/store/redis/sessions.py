"""Sessions in Redis.

    ts:session:{<id>}         STR   the session, as JSON
    ts:session:{<id>}:stream  STR   the stream that holds it
    ts:session:{<id>}:tasks   ZSET  its tasks to report, as JSON with their ids, by their creation
    ts:session:{<id>}:reports:<task> STR   the stream that reports a task, where it is not the session's own
    ts:session:{<id>}:ended   SET   ids of requests that the client cancelled, as JSON
    ts:session:{<id>}:uris    SET   resources whose changes it is told
    ts:floor:{<question>}     STR   the stream that asks a question
    ts:floor:{<question>}:no  STR   why the last answer to it was refused
    ts:floor:{<question>}:by  STR   the request that it was answered through
    ts:interview:<name>       HASH  answers that wait for a call that has no task yet, by key

`<task>` is a task's name, `<question>` one and the key of the question. What is stored as JSON has its names
in `schema`. All of them end by PEXPIRE. Wake-ups go through the channel of the tasks' changes.

Whatever is kept here for a client passes `_write`: it has a largest size, and is refused while memory is
short, new sessions and subscriptions first. What takes something away, or makes it live on, always goes
through.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...crypto.envelope import Envelope
from ...domain.errors import CorruptRecord
from ...domain.limits import KIB, check_size, size, truncate
from ...domain.names import is_session_of, task_hash
from ...domain.rates import Counted
from ...domain.reports import LogLevel
from ...domain.task import DAY, HOUR, MINUTE, JsonText, Owner
from ...failpoints import failpoint
from ..sessions import (
    ASK_LOCK_SECONDS,
    REPORTS_SECONDS,
    SUBSCRIPTIONS,
    AskLock,
    Session,
    SessionState,
    SessionTask,
    calls_name,
    interview_name,
    session_name,
)
from . import schema
from .codec import open_field
from .layout import Command, Shard
from .memory_guard import ANSWERS_UNTIL, CREATES_UNTIL, MemoryGuard
from .rates import RateLimiter
from .transaction import Program, once

logger = logging.getLogger(__name__)

SILENCE_MS = DAY
"""How long a session without requests and without a stream is kept."""

UNUSED_MS = 10 * MINUTE
"""How long a session is kept that has had no request and no stream at all."""

ROW_BYTES = 8 * KIB
"""Largest row that is kept for a client, answers aside: those have a limit of their own (`Limits`)."""

ROW_OVERHEAD = KIB
"""What a row may take beside its text."""

CANCELLED_REQUESTS = 1_000
"""Most cancelled requests of a session that are remembered at a time."""

CANCELLED_MS = MINUTE
"""How long it is remembered that a request was cancelled."""

ENLISTED_TASKS = 1_000
"""Most tasks of a session that its stream reports; of more, the newest."""

ANSWERS_MS = HOUR
"""How long answers are kept for whoever asked."""

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")

_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Run = Callable[[Program[list[Any]]], Awaitable[list[Any]]]


class RedisSessions:
    """`SessionStore` on Redis.

    Args:
        run: Drives a program on one of the task store's connections.
        prefix: In front of every key.
        channel: Where changes are published.
        deadline: Seconds that an operation may take.
        guard: Refuses rows while memory is short.
        rates: Counts new sessions and subscriptions.
        counted_in: The shard where.
        answers_bytes: Largest answer that is left for a call that has no task yet.
        envelope: Seals answers, and what was wrong with one.
    """

    def __init__(
        self,
        run: Run,
        *,
        prefix: str,
        channel: str,
        deadline: float,
        guard: MemoryGuard,
        rates: RateLimiter,
        counted_in: Shard,
        answers_bytes: int,
        envelope: Envelope,
    ) -> None:
        self._envelope = envelope
        self._run, self._prefix, self._channel, self._deadline = run, prefix, channel, deadline
        self._guard, self._answers_bytes = guard, answers_bytes
        self._rates, self._counted_in = rates, counted_in

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        row = schema.SESSION.text(session)
        create: Command = ("SET", self._key(session.session_id), row, "PX", UNUSED_MS)
        await self._write(row, create, new=(Counted.SESSIONS, session.owner))

    async def find(self, owner: Owner, session_id: str) -> Session | None:
        """See `SessionStore.find`."""
        if not _SESSION_ID.fullmatch(session_id) or is_session_of(session_id, owner) is False:
            return None
        (row,) = await self._do(("GETEX", self._key(session_id), "PX", SILENCE_MS))
        # Whose it is shows before it is read, for an id that does not say: nobody learns that there is one.
        if row is None or f'"owner":{json.dumps(owner)}' not in row:
            return None
        session = schema.SESSION.value(row)
        return session if session.owner == owner else None

    async def set_log_level(self, session: Session, level: LogLevel) -> None:
        """See `SessionStore.set_log_level`. Nothing else in a row ever changes: it is written as a whole."""
        row = schema.SESSION.text(replace(session, log_level=level))
        await self._write(
            row,
            ("SET", self._key(session.session_id), row, "XX", "PX", SILENCE_MS),
            self._wake(session_name(session.session_id)),
        )

    async def remove(self, session_id: str) -> None:
        """See `SessionStore.remove`."""
        key = self._key(session_id)
        keys = [f"{key}{part}" for part in ("", ":stream", ":tasks", ":ended", ":uris")]
        await self._do(("DEL", *keys), self._wake(session_name(session_id)))

    async def enlist(self, session_id: str, enlisted: SessionTask, *, at_ms: int) -> None:
        """See `SessionStore.enlist`."""
        key, row = f"{self._key(session_id)}:tasks", schema.SESSION_TASK.text(enlisted)
        await self._write(
            row,
            ("ZADD", key, at_ms, row),
            ("ZREMRANGEBYRANK", key, 0, -ENLISTED_TASKS - 1),
            ("PEXPIRE", key, SILENCE_MS),
            self._wake(session_name(session_id)),
        )

    async def enlisted(self, session_id: str, task_id: str) -> SessionTask | None:
        """See `SessionStore.enlisted`."""
        rows = await self._rows(session_id, task_id)
        return schema.SESSION_TASK.value(rows[0]) if rows else None

    async def take_reports(self, session_id: str, task_id: str, stream: str) -> None:
        """See `SessionStore.take_reports`."""
        life = round(REPORTS_SECONDS * 1000)
        key = self._reports(session_id, task_id)
        await self._write(stream, ("SET", key, stream, "PX", life), self._wake(task_hash(task_id)))

    async def reports_on(self, session_id: str, task_id: str) -> str:
        """See `SessionStore.reports_on`."""
        (stream,) = await self._do(("GET", self._reports(session_id, task_id)))
        return stream or ""

    async def leave_reports(self, session_id: str, task_id: str, stream: str) -> None:
        """See `SessionStore.leave_reports`."""
        if await self.reports_on(session_id, task_id) == stream:
            await self._do(("DEL", self._reports(session_id, task_id)), self._wake(task_hash(task_id)))

    async def delist(self, session_id: str, enlisted: SessionTask) -> None:
        """See `SessionStore.delist`."""
        # As it is stored: another release may have written it in other words.
        if rows := await self._rows(session_id, enlisted.task_id):
            await self._do(("ZREM", f"{self._key(session_id)}:tasks", *rows))

    async def _rows(self, session_id: str, task_id: str) -> list[str]:
        """The rows of a task among those of a session, as they are stored."""
        if not _TASK_ID.fullmatch(task_id):
            return []
        key, pattern = f"{self._key(session_id)}:tasks", f'*"{task_id}"*'
        ((_, found),) = await self._do(("ZSCAN", key, 0, "MATCH", pattern, "COUNT", 8 * ENLISTED_TASKS))
        return [row for row in found[::2] if schema.SESSION_TASK.value(row).task_id == task_id]

    async def take_stream(self, session_id: str, stream: str) -> None:
        """See `SessionStore.take_stream`."""
        key = f"{self._key(session_id)}:stream"
        wake = self._wake(session_name(session_id))
        await self._write(stream, ("SET", key, stream, "PX", SILENCE_MS), wake)

    async def standing(self, session_id: str) -> SessionState | None:
        """See `SessionStore.standing`."""
        key = self._key(session_id)
        row, stream, tasks, _, uris, _ = await self._do(
            ("GETEX", key, "PX", SILENCE_MS),
            ("GETEX", f"{key}:stream", "PX", SILENCE_MS),
            ("ZRANGE", f"{key}:tasks", 0, -1),
            ("PEXPIRE", f"{key}:tasks", SILENCE_MS),
            ("SMEMBERS", f"{key}:uris"),
            ("PEXPIRE", f"{key}:uris", SILENCE_MS),
        )
        if row is None:
            return None
        return SessionState(
            stream or "",
            tuple(map(schema.SESSION_TASK.value, tasks)),
            schema.SESSION.value(row).log_level,
            frozenset(uris),
        )

    async def subscribe(self, session: Session, uri: str) -> bool:
        """See `SessionStore.subscribe`."""
        key, wake = f"{self._key(session.session_id)}:uris", self._wake(session_name(session.session_id))
        number, known = await self._do(("SCARD", key), ("SISMEMBER", key, uri))
        if number >= SUBSCRIPTIONS and not known:
            return False
        commands: list[Command] = [("SADD", key, uri), ("PEXPIRE", key, SILENCE_MS), wake]
        await self._write(uri, *commands, new=(Counted.SUBSCRIPTIONS, session.owner))
        return True

    async def unsubscribe(self, session_id: str, uri: str) -> None:
        """See `SessionStore.unsubscribe`."""
        await self._do(("SREM", f"{self._key(session_id)}:uris", uri), self._wake(session_name(session_id)))

    async def cancel(self, session_id: str, request: JsonText) -> None:
        """See `SessionStore.cancel`."""
        key, wake = f"{self._key(session_id)}:ended", self._wake(calls_name(session_id))
        (number,) = await self._do(("SCARD", key))
        if number < CANCELLED_REQUESTS:
            await self._write(request, ("SADD", key, request), ("PEXPIRE", key, CANCELLED_MS), wake)

    async def is_cancelled(self, session_id: str, request: JsonText) -> bool:
        """See `SessionStore.is_cancelled`."""
        (found,) = await self._do(("SISMEMBER", f"{self._key(session_id)}:ended", request))
        return bool(found)

    async def take_ask_lock(self, task_id: str, key: str, holder: str) -> AskLock:
        """See `SessionStore.take_ask_lock`."""
        lock, life = self._ask_lock(task_id, key), round(ASK_LOCK_SECONDS * 1000)
        _, found = await self._write(holder, ("SET", lock, holder, "NX", "PX", life), ("GET", lock))
        if found != holder:
            return AskLock(mine=False)
        # Only its holder takes a refusal away, so that a question is asked again once, on one stream.
        _, problem = await self._do(("PEXPIRE", lock, life), ("GETDEL", f"{lock}:no"))
        return AskLock(mine=True, problem=self._opened_refusal(task_id, key, problem or ""))

    def _opened_refusal(self, task_id: str, key: str, sealed: str) -> str:
        """Why an answer was refused; it is asked again all the same where that cannot be read."""
        if not sealed:
            return ""
        try:
            return open_field(self._envelope.of("", task_hash(task_id)), f"refusal {key}", sealed)
        except CorruptRecord as error:
            logger.warning("Why an answer was refused cannot be read: %s", error.reason)
            return "the last answer did not fit"

    async def leave_ask_lock(self, task_id: str, key: str, holder: str) -> None:
        """See `SessionStore.leave_ask_lock`."""
        lock = self._ask_lock(task_id, key)
        (found,) = await self._do(("GET", lock))
        if found == holder:
            await self._do(("DEL", lock), self._wake(task_hash(task_id)))

    async def refuse(self, task_id: str, key: str, problem: str) -> None:
        """See `SessionStore.refuse`."""
        refusal, told = f"{self._ask_lock(task_id, key)}:no", truncate(problem, ROW_BYTES)
        sealed = self._envelope.of("", task_hash(task_id)).seal(f"refusal {key}", told)
        wake = self._wake(task_hash(task_id))
        await self._write(told, ("SET", refusal, sealed, "PX", SILENCE_MS), wake)

    async def attribute(self, task_id: str, key: str, request_id: str) -> None:
        """See `SessionStore.attribute`."""
        by = f"{self._ask_lock(task_id, key)}:by"
        await self._write(request_id, ("SET", by, request_id, "PX", MINUTE))

    async def attribution(self, task_id: str, key: str) -> str | None:
        """See `SessionStore.attribution`."""
        (request_id,) = await self._do(("GET", f"{self._ask_lock(task_id, key)}:by"))
        return None if request_id is None else str(request_id)

    async def leave_answer(self, interview: str, key: str, answer: JsonText) -> None:
        """See `SessionStore.leave_answer`."""
        name = self._interview(interview)
        sealed = self._envelope.of("", interview).seal(f"answer {key}", answer)
        await self._write(
            answer,
            ("HSETNX", name, key, sealed),
            ("PEXPIRE", name, ANSWERS_MS),
            self._wake(interview_name(interview)),
            most_bytes=self._answers_bytes,
        )

    async def answers(self, interview: str) -> Mapping[str, JsonText]:
        """See `SessionStore.answers`."""
        (flat,) = await self._do(("HGETALL", self._interview(interview)))
        seal = self._envelope.of("", interview)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return {key: JsonText(open_field(seal, f"answer {key}", answer)) for key, answer in pairs}

    async def _write(
        self,
        row: str,
        *commands: Command,
        new: tuple[Counted, Owner] | None = None,
        most_bytes: int = ROW_BYTES,
    ) -> Sequence[Any]:
        """Keep a row for a client, with what goes along with it.

        Args:
            row: What is kept, as text.
            commands: Keep it, and what needs to be done beside.
            new: What a client asks for with it, and who, where it is no part of what goes on already. Such
                rows are counted, and refused as early as new tasks.
            most_bytes: Largest size of the row.

        Raises:
            LimitExceeded: It is larger.
            RateExceeded: It is asked for too often.
            StoreFull: Memory is short.
        """
        check_size("what is kept for a session", row, most_bytes)
        maximum, taken = CREATES_UNTIL if new else ANSWERS_UNTIL, ROW_OVERHEAD + size(row)
        if new is not None:
            self._rates.check(*new)

        def admitted(program: Program[Any]) -> Program[Any]:
            if new is not None:
                program = self._rates.beside(program, *new, self._counted_in)
            return self._guard.row(program, taken, maximum=maximum)

        return await self._do(*commands, admitted=admitted)

    async def _do(
        self,
        *commands: Command,
        admitted: Callable[[Program[Any]], Program[Any]] = lambda program: program,
    ) -> Sequence[Any]:
        failpoint("Session", "before")
        replies = await self._run(admitted(once(commands, self._deadline)))
        failpoint("Session", "after")
        return replies

    def _wake(self, name: str) -> Command:
        return ("PUBLISH", self._channel, f"{name} 0")

    def _key(self, session_id: str) -> str:
        return f"{self._prefix}:session:{{{session_id}}}"

    def _reports(self, session_id: str, task_id: str) -> str:
        return f"{self._key(session_id)}:reports:{task_hash(task_id)}"

    def _interview(self, interview: str) -> str:
        return f"{self._prefix}:interview:{interview}"

    def _ask_lock(self, task_id: str, key: str) -> str:
        return f"{self._prefix}:floor:{{{json.dumps([task_hash(task_id), key])}}}"
