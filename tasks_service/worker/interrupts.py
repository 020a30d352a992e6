"""The interruption of a tool that never calls its context, by a signal in the pool child that runs it.

Celery's own soft time limit sends SIGUSR1 to a child, whose handler raises in the main thread, whatever runs
there. Here the handler raises only while a tool's body runs; our own code around it (claims, commits) is
never interrupted. Only a prefork child runs tools in the main thread of its own process, so it works only
there: in the pools `threads` and `solo` an unresponsive tool occupies its pool slot until it returns.
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
"""Seconds that a tool has to notice a requested stop by itself."""

INTERRUPT_INTERVAL = 10.0
"""Seconds before a tool that goes on is interrupted again."""


class Interrupter:
    """Interrupts the tool's body that runs in this process's main thread."""

    def __init__(self) -> None:
        self._in_child = False
        self._engaged = False
        self._body: RunningAttempt | None = None
        self._celery_style = False
        self._soft_limited = False
        self._next_interrupt = 0.0

    def engage(self) -> None:
        """Take over the handling of SIGUSR1, in a prefork child, while a task of ours runs in this thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGUSR1)
        if handler is soft_timeout_sighandler:
            self._in_child = True
        if self._in_child and handler != self._handle:  # a task that is no tool may have changed it
            signal.signal(signal.SIGUSR1, self._handle)
        self._engaged = self._in_child

    @property
    def engaged(self) -> bool:
        """Whether a task of ours runs in this thread, which is the main thread of a prefork child."""
        return self._engaged and threading.current_thread() is threading.main_thread()

    def disengage(self) -> None:
        """Leave SIGUSR1 to Celery again, for other tasks of this process."""
        if threading.current_thread() is threading.main_thread():
            self._engaged, self._body = False, None

    def enter(
        self, attempt: RunningAttempt, *, celery_style: bool = False, soft_limited: bool = False
    ) -> None:
        """Allow interruption from here on: the body begins.

        Args:
            attempt: The attempt whose body begins.
            celery_style: Whether to raise Celery's `SoftTimeLimitExceeded` at the timeout.
            soft_limited: Whether it has a soft time limit of its own, before the timeout: the body may go on
                after it, and still end with a result.
        """
        if self._engaged and threading.current_thread() is threading.main_thread():
            self._celery_style, self._soft_limited = celery_style, soft_limited
            self._next_interrupt = 0.0
            self._body = attempt

    def leave(self) -> None:
        """Allow no more interruption: the body has ended."""
        if threading.current_thread() is threading.main_thread():
            self._body = None

    def interrupt(self, attempt: RunningAttempt) -> None:
        """Interrupt an attempt's body that goes on `STOP_GRACE` after a requested stop; from any thread."""
        if attempt is not self._body or attempt.stop_requested_at is None or attempt.is_shielded:
            return
        now = time.monotonic()
        if now < max(attempt.stop_requested_at + STOP_GRACE, self._next_interrupt):
            return
        self._next_interrupt = now + INTERRUPT_INTERVAL
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
            if self._soft_limited and time.monotonic() < body.deadline:
                raise SoftTimeLimitExceeded
            body.request_stop(AttemptTimedOut)
        if body.is_shielded:
            return
        if self._celery_style and body.stop_reason is AttemptTimedOut:
            raise SoftTimeLimitExceeded
        raise body.end_error()
