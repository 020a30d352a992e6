"""When a tool, or a step of it, is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ..domain.errors import ClientCannot, ClientError, ProtocolError, TasksServiceError, ToolError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Which of a tool's own exceptions are worth another attempt, and when.

    A lost worker is always retried, up to the tool's `max_attempts`; this is about exceptions that the tool
    raises. Retries count against the same `max_attempts`. `ToolError` and `ProtocolError` are never retried.

    Attributes:
        on: Exception types that are retried.
        first_delay: Before the second attempt.
        factor: The delay grows by this from attempt to attempt.
        longest_delay: And no further than this.
    """

    on: tuple[type[Exception], ...] = (Exception,)
    first_delay: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    longest_delay: timedelta = timedelta(minutes=5)

    def wants(self, error: BaseException) -> bool:
        """Whether an exception is worth another try: not one by which the author, or the service, says no."""
        final = (ToolError, ProtocolError, ClientCannot, ClientError, TasksServiceError)
        return isinstance(error, self.on) and not isinstance(error, final)

    def delay_ms(self, tries: int) -> int:
        """Milliseconds to wait after the given number of attempts, 1 for the first."""
        longest = self.longest_delay.total_seconds()
        try:
            delay = self.first_delay.total_seconds() * self.factor ** max(tries - 1, 0)
        except OverflowError:
            delay = longest
        return round(min(delay, longest) * 1000)
