"""Ending a tool that never calls its context: by a signal in the pool child that runs it.

Celery's own soft time limit sends SIGUSR1 to a child, whose handler raises in the main thread, wherever it
is. Here the handler raises only while a tool's body runs there; everything of ours around the body (claims,
commits) is never broken into. Only a prefork child runs tools in its main thread in a process of its own, so
only there it works: with threads and solo an unresponsive tool keeps its slot until it returns.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from billiard.pool import soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded

from ..domain.errors import AttemptTimedOut
from .attempt import RunningAttempt

STOP_GRACE = 0.7
"""Seconds that a tool that was told to stop has to notice by itself."""

AGAIN = 10.0
"""Seconds before a tool that runs on is interrupted once more."""


class Interrupter:
    """Knows whose body runs in this process's main thread, and can break into it."""

    def __init__(self) -> None:
        self._in_child = False
        self._engaged = False
        self._body: RunningAttempt | None = None
        self._celery_style = False
        self._next = 0.0

    def engage(self) -> None:
        """A task of ours begins in this thread: from now on a soft time limit is ours to judge."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGUSR1) is soft_timeout_sighandler:
            self._in_child = True
            signal.signal(signal.SIGUSR1, self._handle)
        self._engaged = self._in_child

    def disengage(self) -> None:
        """It is over: other tasks of this process get what Celery gives them."""
        if threading.current_thread() is threading.main_thread():
            self._engaged, self._body = False, None

    def enter(self, attempt: RunningAttempt, *, celery_style: bool = False) -> None:
        """The body begins; from here on it may be broken into.

        Args:
            attempt: Whose body.
            celery_style: It knows Celery's `SoftTimeLimitExceeded`, and gets that when its time is up.
        """
        if self._engaged and threading.current_thread() is threading.main_thread():
            self._celery_style, self._next = celery_style, 0.0
            self._body = attempt

    def leave(self) -> None:
        """The body is over."""
        if threading.current_thread() is threading.main_thread():
            self._body = None

    def interrupt(self, attempt: RunningAttempt) -> None:
        """Break into the attempt's body, if it was told to stop a while ago and goes on; from any thread."""
        if attempt is not self._body or attempt.flagged_at is None or attempt.is_shielded:
            return
        now = time.monotonic()
        if now < max(attempt.flagged_at + STOP_GRACE, self._next):
            return
        self._next = now + AGAIN
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, signal.SIGUSR1)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._engaged:
            soft_timeout_sighandler(number, frame)
            return
        body = self._body
        if body is None:
            return
        if not body.cancelled:
            body.request_stop(AttemptTimedOut)
        if body.is_shielded:
            return
        if self._celery_style and body.stop_reason is AttemptTimedOut:
            raise SoftTimeLimitExceeded
        raise body.ending()
