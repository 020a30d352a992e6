"""What a front end keeps for clients of revisions with sessions, so that no process has to remember them.

A session is a row that every front end reads: a request may go to any of them, and each may die at any time.
What one process must tell another is a row as well, followed by a wake-up under a name of the session. A
wake-up may be lost, a row is not: whoever waits reads again before long.

Everything here ends by itself, when its session has been silent for long enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..domain.reports import LogLevel
from ..domain.task import ClientCapability, JsonText, Owner, Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What was agreed on at the handshake.

    Attributes:
        session_id: Names it; 192 random bits.
        owner: Whose it is; to everybody else there is no such session.
        version: The protocol revision.
        capabilities: What the client can be asked.
        log_level: From which level on it is sent log messages.
        service: The service that it is a session with; empty at a front end's only path.
        client: The client, as it names itself.
    """

    session_id: str
    owner: Owner
    version: str
    capabilities: frozenset[ClientCapability] = frozenset()
    log_level: LogLevel = LogLevel.INFO
    service: str = ""
    client: str = ""
    unknown: Unknown = ()


class SessionTask(NamedTuple):
    """A task that was made in a session, and the token under which its progress is reported there."""

    task_id: str
    progress_token: str | int | None = None


class SessionState(NamedTuple):
    """What the holder of a session's stream must know.

    Attributes:
        stream: The stream that holds the session now; the newest one.
        tasks: The tasks of the session that are to be reported, oldest first.
        log_level: See `Session`.
        resources: URIs of resources whose changes are reported.
    """

    stream: str
    tasks: tuple[SessionTask, ...]
    log_level: LogLevel
    resources: frozenset[str] = frozenset()


class AskLock(NamedTuple):
    """Whether a stream may ask a question.

    Attributes:
        mine: No other stream asks it now.
        problem: Why the last answer was refused, once for each refusal; empty otherwise.
    """

    mine: bool
    problem: str = ""


def session_name(session_id: str) -> str:
    """What is woken when something about a session has changed."""
    return f"session:{session_id}"


def calls_name(session_id: str) -> str:
    """What is woken when a request of a session was cancelled."""
    return f"calls:{session_id}"


def interview_name(interview: str) -> str:
    """What is woken when an answer was left."""
    return f"interview:{interview}"


class SessionStore(Protocol):
    """Sessions. Every method may be repeated, and raises `StoreUnavailable` if there is no answer in time."""

    async def create(self, session: Session) -> None:
        """Keep a session."""

    async def find(self, owner: Owner, session_id: str) -> Session | None:
        """The session of that id if it is the owner's; its silence begins anew."""

    async def set_log_level(self, session: Session, level: LogLevel) -> None:
        """Let the client be sent log messages from another level on, and wake its stream."""

    async def remove(self, session_id: str) -> None:
        """Forget a session, and wake its stream."""

    async def enlist(self, session_id: str, enlisted: SessionTask, *, at_ms: int) -> None:
        """Let a task be reported on the session's stream; of too many, the oldest are not.

        Args:
            session_id: Whose stream.
            enlisted: The task.
            at_ms: When it was created, by the store's clock.
        """

    async def enlisted(self, session_id: str, task_id: str) -> SessionTask | None:
        """The task, if it was made in the session and its end has not been told yet."""

    async def take_reports(self, session_id: str, task_id: str, stream: str) -> None:
        """Let a task be reported on another stream than the session's own, and wake who follows the task.

        To be repeated before `REPORTS_SECONDS` are over; the latest that takes them has them.
        """

    async def reports_on(self, session_id: str, task_id: str) -> str:
        """The stream that a task is reported on; empty for the session's own."""

    async def leave_reports(self, session_id: str, task_id: str, stream: str) -> None:
        """Let the session's own stream report again, and wake who follows the task."""

    async def delist(self, session_id: str, enlisted: SessionTask) -> None:
        """The task has ended, and the client was told."""

    async def take_stream(self, session_id: str, stream: str) -> None:
        """Make a stream the one that holds the session, and wake the one before."""

    async def standing(self, session_id: str) -> SessionState | None:
        """What the session's stream must know; None if there is no such session. Silence begins anew."""

    async def subscribe(self, session: Session, uri: str) -> bool:
        """Report changes of a resource on the session's stream, and wake it.

        Returns:
            Whether it is; not, if the session has `SUBSCRIPTIONS` already.
        """

    async def unsubscribe(self, session_id: str, uri: str) -> None:
        """Report them no more."""

    async def cancel(self, session_id: str, request: JsonText) -> None:
        """Note that the client cancelled one of its requests, and wake whoever serves it."""

    async def is_cancelled(self, session_id: str, request: JsonText) -> bool:
        """Whether a request of the session was cancelled within the last minute."""

    async def take_ask_lock(self, task_id: str, key: str, holder: str) -> AskLock:
        """Be the one stream that asks a question; to be repeated before `ASK_LOCK_SECONDS` are over."""

    async def leave_ask_lock(self, task_id: str, key: str, holder: str) -> None:
        """Let another stream ask."""

    async def refuse(self, task_id: str, key: str, problem: str) -> None:
        """Have a question asked again, and why, by whoever holds the lock."""

    async def attribute(self, task_id: str, key: str, request_id: str) -> None:
        """Remember for a minute which request a question was answered through."""

    async def attribution(self, task_id: str, key: str) -> str | None:
        """The request whose response answered a question within the last minute; None if there was none."""

    async def leave_answer(self, interview: str, key: str, answer: JsonText) -> None:
        """Leave an answer for whoever asks before there is a task; the first one counts."""

    async def answers(self, interview: str) -> Mapping[str, JsonText]:
        """The answers that were left, by key."""


SUBSCRIPTIONS = 1_000
"""Resources that one session may subscribe to."""

REPORTS_SECONDS = 60.0
"""How long a stream that has died still counts as the one that reports a task."""

ASK_LOCK_SECONDS = 6.0
"""How long a stream that has died still counts as the one that asks."""
