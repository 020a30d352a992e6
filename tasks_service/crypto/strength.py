"""How hard a secret is to guess, as far as that can be seen by looking at it.

Nobody can see that a secret is strong. These are the ones that a program which guesses tries first: few
characters, one piece again and again, the alphabet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

FEWEST_DIFFERENT: Final = 6
"""Fewest different characters. Of 16 random hexadecimal digits, 1 in 5,000 has so few."""

GENERATE: Final = "openssl rand -hex 32"
"""A command that prints a strong secret."""


def weakness(secret: str) -> str | None:
    """What is weak about a secret, to be put behind "it"; None if nothing is seen.

    Args:
        secret: Of any length; that is checked elsewhere.
    """
    different = len(set(secret))
    if different < FEWEST_DIFFERENT:
        return f"has {different} different characters; a random one of its length has more"
    if _repeats(secret):
        return "is one piece, repeated"
    if _counts(secret):
        return "is made of characters that follow each other, as in abcd or 4321"
    return None


def _repeats(secret: str) -> bool:
    """Whether the second half, or more, says again what was there before."""
    return any(secret[period:] == secret[:-period] for period in range(1, len(secret) // 2 + 1))


def _counts(secret: str) -> bool:
    """Whether most characters are a neighbour of the one before, in one direction."""
    steps = [ord(after) - ord(before) for before, after in pairwise(secret)]
    return max(steps.count(1), steps.count(-1)) > len(steps) / 2
