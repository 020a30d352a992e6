"""The policy by which a tool, or a step of it, is retried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ..domain.errors import (
    ClientCannot,
    ClientError,
    ConfigurationError,
    ProtocolError,
    TasksServiceError,
    ToolError,
)
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

    def __post_init__(self) -> None:
        """Refuse what would fail only when a tool has failed.

        Raises:
            ConfigurationError: A value of another type, or out of range.
        """
        if not isinstance(self.on, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in self.on
        ):
            raise ConfigurationError(
                f"RetryPolicy: on={self.on!r}: expected a tuple of exception classes, as in (TimeoutError,)"
            )
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float) or not self.factor >= 1:
            raise ConfigurationError(f"RetryPolicy: factor={self.factor!r}: expected a number of at least 1")
        for name in ("first_delay", "longest_delay"):
            delay = getattr(self, name)
            if not isinstance(delay, timedelta) or delay < timedelta(0):
                raise ConfigurationError(
                    f"RetryPolicy: {name}={delay!r}: expected a datetime.timedelta of at least 0"
                )

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
