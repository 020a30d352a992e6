"""The pause between two tries."""

from __future__ import annotations

import random


def full_jitter(attempt: int, *, first: float = 0.001, most: float = 0.05) -> float:
    """Seconds to wait before the next try: uniform up to an exponential bound (notes: p99 221 to 83 ms)."""
    return random.uniform(0.0, min(most, first * 2 ** min(attempt, 16)))  # noqa: S311 - not a secret
