"""The policy by which a tool, or a step of it, is retried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ..domain.errors import ClientCannot, ClientError, ProtocolError, TasksServiceError, ToolError
from .sdk_objects import SDK_PROTOCOL_ERRORS, SDK_TOOL_ERROR, is_sdk_object


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Which exceptions of a tool are retried, and after which delays.

    A tool that lost its worker is always retried, up to its `max_attempts`; this policy is for exceptions
    that the tool raises. Their retries count against the same `max_attempts`. `ToolError` and `ProtocolError`
    are never retried, nor are the SDK's errors of that kind.

    Attributes:
        on: Exception types that are retried.
        first_delay: The delay before the second attempt.
        factor: The factor by which the delay grows with each attempt.
        longest_delay: The longest delay.
    """

    on: tuple[type[Exception], ...] = (Exception,)
    first_delay: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    longest_delay: timedelta = timedelta(minutes=5)

    def applies_to(self, error: BaseException) -> bool:
        """Whether an exception is retried; deliberate errors of the author and of the service never are."""
        final = (ToolError, ProtocolError, ClientCannot, ClientError, TasksServiceError)
        if isinstance(error, final) or is_sdk_object(error, SDK_TOOL_ERROR, *SDK_PROTOCOL_ERRORS):
            return False
        return isinstance(error, self.on)

    def delay_ms(self, attempts: int) -> int:
        """Milliseconds to wait after the given number of attempts, 1 for the first."""
        longest = self.longest_delay.total_seconds()
        try:
            delay = self.first_delay.total_seconds() * self.factor ** max(attempts - 1, 0)
        except OverflowError:
            delay = longest
        return round(min(delay, longest) * 1000)
