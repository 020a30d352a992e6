"""Guesses of API keys: counted by the network that they come from, logged at a bounded rate, and limited.

A network with too many guesses is not told whether further ones are right, so that trying is of no use. A key
that came from there before, and was right, is still taken: one bad neighbour behind the same address stops
nobody's work.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ...crypto.key_file import hash_key
from .caller_address import CallerAddress

logger = logging.getLogger(__name__)

MOST_GUESSES: Final = 20
"""Guesses that one network has for `WINDOW_SECONDS`."""

WINDOW_SECONDS: Final = 60.0
"""The time in which guesses are counted, and the shortest one between two log lines about them."""

NETWORKS: Final = 10_000
"""How many networks are remembered; of more, those that guessed longest ago are forgotten."""


@dataclass(slots=True)
class _Guesses:
    since: float
    number: int = 0


class KeyGuesses:
    """Counts wrong keys.

    Args:
        timer: Seconds that only grow.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()
        self._proven: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._untold, self._told_at = 0, float("-inf")

    def seconds_to_wait(self, address: CallerAddress) -> float:
        """Seconds for which a network has had its guesses; 0 if it may try."""
        guesses = self._guesses.get(address.network)
        if guesses is None or guesses.number < MOST_GUESSES:
            return 0.0
        return max(guesses.since + WINDOW_SECONDS - self._timer(), 0.0)

    def is_proven(self, address: CallerAddress, key: bytes) -> bool:
        """Whether a key came from a network, and was right, before the network had its guesses."""
        return (address.network, hash_key(key)) in self._proven

    def right(self, address: CallerAddress, key: bytes) -> None:
        """Note that a key was right."""
        place = (address.network, hash_key(key))
        if place not in self._proven:
            self._proven[place] = None
            if len(self._proven) > NETWORKS:
                self._proven.popitem(last=False)

    def wrong(self, address: CallerAddress) -> None:
        """Count a key that was wrong, and say so in the log, unless that was said lately."""
        now = self._timer()
        guesses = self._guesses.get(address.network)
        if guesses is None or now - guesses.since >= WINDOW_SECONDS:
            guesses = self._guesses[address.network] = _Guesses(now)
            if len(self._guesses) > NETWORKS:
                self._guesses.popitem(last=False)
        guesses.number += 1
        self._guesses.move_to_end(address.network)
        self._tell(address, now)

    def _tell(self, address: CallerAddress, now: float) -> None:
        self._untold += 1
        if now - self._told_at < WINDOW_SECONDS:
            return
        logger.warning(
            "Wrong API keys: %d since the last such line, the last from %s, which sent %d within a minute",
            self._untold,
            address.address or "an address that the server does not say",
            self._guesses[address.network].number,
        )
        self._untold, self._told_at = 0, now
