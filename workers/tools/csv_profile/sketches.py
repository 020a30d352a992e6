"""Summaries of a stream in bounded memory, each exact while the stream is small.

All are deterministic: the same file gives the same profile, on every worker and in every attempt. All take
batches, because Python sorts, hashes and counts a batch in C code, which is faster than a loop over cells.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, chain, repeat
from operator import itemgetter

HASH_BITS = 64


class DistinctCount:
    """The number of different values, from the k smallest hash values (KMV).

    Up to `k` different values the count is exact, except for collisions of 64-bit hashes. Above, it is
    estimated from the density of the k smallest hashes, with a standard error of 1/sqrt(k - 2) (Bar-Yossef et
    al., 2002; Beyer et al., 2007).

    Args:
        k: The number of hashes that are kept; 4096 give an error of 1.6 %.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._smallest: set[int] = set()
        self._ceiling = 1 << HASH_BITS
        self._overflowed = False

    def update(self, values: Iterable[str]) -> None:
        """Add a batch; repeated values cost time but change nothing."""
        ceiling = self._ceiling
        hashes = map(_hash, values)
        self._smallest.update(value for value in hashes if value < ceiling)
        if len(self._smallest) > 2 * self._k:
            self._prune()

    def _prune(self) -> None:
        kept = sorted(self._smallest)[: self._k]
        self._smallest = set(kept)
        self._ceiling = kept[-1]
        self._overflowed = True

    @property
    def is_estimate(self) -> bool:
        """Whether `count` is an estimate."""
        return self._overflowed or len(self._smallest) > self._k

    @property
    def count(self) -> int:
        """The number of different values."""
        if not self.is_estimate:
            return len(self._smallest)
        kth = sorted(self._smallest)[self._k - 1]
        return round((self._k - 1) / (kth / (1 << HASH_BITS)))

    @property
    def relative_error(self) -> float:
        """The standard error of `count`, as a fraction of it; 0 while it is exact."""
        return 1 / math.sqrt(self._k - 2) if self.is_estimate else 0.0


def _hash(value: str) -> int:
    return int.from_bytes(blake2b(value.encode(), digest_size=HASH_BITS // 8).digest())


class HeavyHitters:
    """The most frequent values, from Misra-Gries counters that are merged batch by batch.

    Every value that is more frequent than `error` is among them. A count is never too high, and too low by at
    most `error`, which is never more than total / (capacity + 1) (Agarwal et al., "Mergeable Summaries",
    2012).

    Args:
        capacity: The number of counters that are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: Counter[str] = Counter()
        self.error = 0

    def update(self, counts: Mapping[str, int]) -> None:
        """Add the counts of a batch."""
        merged = self._counts
        merged.update(counts)
        if len(merged) <= self._capacity:
            return
        surplus = sorted(merged.values(), reverse=True)[self._capacity]
        self._counts = Counter({value: n - surplus for value, n in merged.items() if n > surplus})
        self.error += surplus

    def top(self, n: int) -> list[tuple[str, int]]:
        """The n most frequent values with their counts; equal counts are in the order of the values."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:n]


class Quantiles:
    """The distribution of numbers, from sorted buffers that are reduced by half when they are full.

    A value of level l has the weight 2**l. A full level is sorted, and every other value moves to the next
    level (Munro and Paterson, 1980). Each reduction moves any rank by at most the weight of one value, so the
    sum of those weights is a bound of the error, which is reported.

    Args:
        capacity: The number of values per level, even; up to that many values everything is exact.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._levels: list[array[float]] = [array("d")]
        self._count = 0
        self._displaced = 0
        self._odd = False

    def update(self, values: Sequence[float]) -> None:
        """Add a batch of finite numbers."""
        self._count += len(values)
        for start in range(0, len(values), self._capacity):
            self._levels[0].extend(values[start : start + self._capacity])
            self._thin()

    def _thin(self) -> None:
        for level, values in enumerate(self._levels):
            if len(values) <= self._capacity:
                return
            if level + 1 == len(self._levels):
                self._levels.append(array("d"))
            ordered = sorted(values)
            left_over = [ordered.pop()] if len(ordered) % 2 else []
            # Taking the first and the second of each pair in turn keeps the errors from adding up.
            self._levels[level + 1].extend(ordered[self._odd :: 2])
            self._levels[level] = array("d", left_over)
            self._odd = not self._odd
            self._displaced += 1 << level

    @property
    def rank_error(self) -> float:
        """The largest error of a quantile's rank, as a fraction of all values; 0 while everything is exact.

        With 0.002, a reported median lies between the 49.8 % and the 50.2 % quantile.
        """
        return self._displaced / self._count if self._count else 0.0

    def at(self, fractions: Sequence[float]) -> list[float]:
        """The smallest value with at least each fraction of all values at or below it.

        Args:
            fractions: Ascending numbers from 0 to 1. At least one value must have been added.
        """
        weighted = sorted(
            chain.from_iterable(zip(values, repeat(1 << level)) for level, values in enumerate(self._levels)),
            key=itemgetter(0),
        )
        ranks = list(accumulate(weight for _, weight in weighted))
        found = []
        position = 0
        for fraction in fractions:
            wanted = fraction * ranks[-1]
            while ranks[position] < wanted:
                position += 1
            found.append(weighted[position][0])
        return found


class Moments:
    """The mean and variance, merged batch by batch without cancellation.

    Welford's method for batches (Chan, Golub and LeVeque, 1979).
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0

    def update(self, values: Sequence[float]) -> None:
        """Add a batch of at least one finite number."""
        count = len(values)
        mean = _sum(values) / count
        # Products overflow to infinity; a power would raise.
        squares = _sum([(value - mean) * (value - mean) for value in values])
        total = self._count + count
        difference = mean - self._mean
        self._mean += difference * count / total
        self._squares += squares + difference * difference * self._count * count / total
        self._count = total

    @property
    def mean(self) -> float | None:
        """The mean; None without values, or beyond the range of floating point."""
        return self._mean if self._count and math.isfinite(self._mean) else None

    @property
    def standard_deviation(self) -> float | None:
        """The standard deviation of a sample (n - 1); None below two values, or beyond floating point."""
        if self._count < 2 or not math.isfinite(self._squares):
            return None
        return math.sqrt(self._squares / (self._count - 1))


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
