"""Streams that a client leaves, and comes back to later (2025-11-25, transports, "resumability").

Only calls of tools that say `release_client` have such streams (docs/protocol-2025-11-25.md, "sessions").
The client gets the id of an event, and with it may ask any front end for the rest. The id is sealed: it says
which execution the call waits for, so that nothing has to be kept, and nobody can make one up. What went out
before is not sent again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Final

from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState

from ...store.sessions import Session

logger = logging.getLogger(__name__)

RETRY_MS: Final = 1000
"""When a client may come back whose connection was lost."""

SHORTEST_ABSENCE_MS: Final = 1000
"""A sleep that is shorter is not worth another connection."""


class PollLater(Exception):
    """Tells the transport to end the stream: the client is to come back for the answer.

    Args:
        task_id: The execution that it waits for.
        retry_ms: In how many milliseconds.
    """

    def __init__(self, task_id: str, retry_ms: int) -> None:
        super().__init__(f"the client is to come back in {retry_ms} ms")
        self.task_id, self.retry_ms = task_id, retry_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """The point from which a stream goes on in a session.

    Attributes:
        task_id: The execution that is waited for.
        request_id: The request that its end answers.
        progress_token: The client's name for reports of progress; None if it wants none.
    """

    task_id: str
    request_id: str | int
    progress_token: str | int | None = None


class ResumePoints:
    """Writes resume points as ids of events, each good for its session alone.

    Args:
        secret: The deployment's; ids are sealed under a key made from it.
    """

    def __init__(self, secret: bytes) -> None:
        key = hashlib.blake2b(secret, digest_size=32, person=b"tasks-bookmark").digest()
        self._codec = AESGCMRequestStateCodec([key])

    def event_id(self, session: Session, resume_point: ResumePoint) -> str:
        """A new id for an event of a stream of the session."""
        content = [
            session.session_id,
            resume_point.task_id,
            resume_point.request_id,
            resume_point.progress_token,
        ]
        return self._codec.seal(json.dumps(content).encode())

    def open(self, session: Session, event_id: str) -> ResumePoint | None:
        """Read the id of an event; None if it was not sent in this session."""
        try:
            session_id, task_id, request_id, token = json.loads(self._codec.unseal(event_id))
        except InvalidRequestState as error:
            logger.debug("an event's id that is not ours: %s", error)
            return None
        if session_id != session.session_id:
            return None
        return ResumePoint(task_id=task_id, request_id=request_id, progress_token=token)
