"""The summaries behind `profile_csv`: exact while small, and within their stated error beyond."""

from __future__ import annotations

import math
import random
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.tools.csv_profile.sketches import DistinctCount, HeavyHitters, Moments, Quantiles

FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e100, max_value=1e100)


@given(st.lists(st.lists(st.text(max_size=3)), max_size=10))
def test_distinct_values_are_counted_exactly_up_to_the_capacity(batches: list[list[str]]) -> None:
    sketch = DistinctCount(1000)
    for batch in batches:
        sketch.update(batch)

    assert sketch.count == len({value for batch in batches for value in batch})
    assert not sketch.is_estimate
    assert sketch.relative_error == 0


@pytest.mark.parametrize("different", [5_000, 200_000])
def test_many_distinct_values_are_estimated_within_the_stated_error(different: int) -> None:
    sketch = DistinctCount(1024)
    for start in range(0, 2 * different, 1000):
        sketch.update([str(value % different) for value in range(start, start + 1000)])

    assert sketch.is_estimate
    assert sketch.count == pytest.approx(different, rel=4 * sketch.relative_error)


def test_distinct_estimates_do_not_depend_on_the_order_or_the_batches() -> None:
    values = [str(value) for value in range(20_000)]
    shuffled = random.Random(7).sample(values, len(values))
    one, other = DistinctCount(256), DistinctCount(256)
    one.update(values)
    for start in range(0, len(shuffled), 77):
        other.update(shuffled[start : start + 77])

    assert one.count == other.count


@given(st.lists(st.lists(st.integers(0, 40)), max_size=20), st.integers(1, 20))
def test_frequent_values_are_never_missed_nor_overcounted(batches: list[list[int]], capacity: int) -> None:
    truth = Counter(str(value) for batch in batches for value in batch)
    sketch = HeavyHitters(capacity)
    for batch in batches:
        sketch.update(Counter(map(str, batch)))
    found = dict(sketch.top(1000))

    assert sketch.error <= truth.total() / (capacity + 1)
    assert all(truth[value] - sketch.error <= count <= truth[value] for value, count in found.items())
    assert all(value in found for value, count in truth.items() if count > sketch.error)


@given(st.lists(st.lists(FINITE, min_size=1), min_size=1, max_size=5))
def test_quantiles_of_few_values_are_exact(batches: list[list[float]]) -> None:
    sketch = Quantiles(1000)
    for batch in batches:
        sketch.update(batch)
    values = sorted(value for batch in batches for value in batch)

    assert sketch.rank_error == 0
    assert sketch.at([0, 0.5, 1]) == [values[0], values[math.ceil(len(values) / 2) - 1], values[-1]]


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled", "sawtooth"])
def test_quantiles_of_many_values_are_within_the_stated_rank_error(order: str) -> None:
    values = [float(value) for value in range(100_000)]
    if order == "descending":
        values.reverse()
    elif order == "shuffled":
        random.Random(3).shuffle(values)
    elif order == "sawtooth":
        values = [value % 317 for value in values]
    sketch = Quantiles(256)
    for start in range(0, len(values), 999):
        sketch.update(values[start : start + 999])
    ordered = sorted(values)

    assert 0 < sketch.rank_error < 0.05
    for fraction in (0.01, 0.25, 0.5, 0.75, 0.99):
        (found,) = sketch.at([fraction])
        low, high = bisect_left(ordered, found) / len(values), bisect_right(ordered, found) / len(values)
        assert low - sketch.rank_error <= fraction <= high + sketch.rank_error


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1), min_size=1, max_size=5))
def test_mean_and_deviation_agree_with_the_whole_list(batches: list[list[float]]) -> None:
    moments = Moments()
    for batch in batches:
        moments.update(batch)
    values = [value for batch in batches for value in batch]

    assert moments.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    if len(values) > 1:
        assert moments.standard_deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_a_small_deviation_beside_a_huge_mean_is_not_cancelled_away() -> None:
    moments = Moments()
    for value in (1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16):
        moments.update([value])

    assert moments.standard_deviation == pytest.approx(math.sqrt(30))


def test_what_floating_point_cannot_hold_is_left_open() -> None:
    moments = Moments()
    moments.update([1e308, 1e308, -1e308])

    assert moments.standard_deviation is None
