"""Why tokens are refused, for the log: callers are never told which reason it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from ...domain.limits import truncate

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 60.0
"""The shortest time between two lines about one kind of reason: callers could fill the log otherwise."""

REASON_BYTES: Final = 500
"""Longest reason in the log."""


class TokenRefused(Exception):
    """A token is not to be taken.

    Args:
        kind: What was wrong: one of few texts.
        details: What exactly, for the log; nothing by which the token could be used.
    """

    def __init__(self, kind: str, details: str = "") -> None:
        super().__init__(f"{kind}: {details}" if details else kind)
        self.kind = kind


class CannotVerify(Exception):
    """Whether a token is good cannot be said for now: its issuer does not answer."""


class RefusalLog:
    """Logs why tokens were refused, each kind of reason once in a minute.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def tell(self, refused: TokenRefused) -> None:
        """Log a refusal, unless one of its kind was logged lately."""
        now = self._clock()
        if now - self._told.get(refused.kind, float("-inf")) >= PAUSE_SECONDS:
            self._told[refused.kind] = now
            logger.warning("A token was refused: %s", truncate(str(refused), REASON_BYTES))
