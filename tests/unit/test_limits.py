"""One definition of too much, for every store and every edge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_service.domain.errors import LimitExceeded, NotJson
from tasks_service.domain.limits import DEFAULT_LIMITS, MIB, check_depth, check_size, size, to_json, truncate


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(("text", "expected"), [("", 0), ("abc", 3), ("ä", 2), ("…", 3), ("😀", 4)])
def test_sizes_are_bytes_of_utf_8(text: str, expected: int) -> None:
    assert size(text) == expected


def test_a_text_of_exactly_the_limit_is_allowed() -> None:
    check_size("result", "ää", 4)


def test_a_text_over_the_limit_is_refused_with_the_numbers() -> None:
    with pytest.raises(LimitExceeded, match="result: 4 bytes, at most 3 allowed") as refused:
        check_size("result", "ää", 3)
    error = refused.value
    assert (error.what, error.maximum, error.actual, error.unit) == ("result", 3, 4, "bytes")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), {"deep": [float("nan")]}], ids=str
)
def test_what_is_not_a_json_number_is_refused(value: Any) -> None:
    with pytest.raises(NotJson, match=r"arguments.*NaN and Infinity"):
        to_json("arguments", value, maximum=MIB)


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"\ud800": 1}], ids=ascii)
def test_a_lone_surrogate_is_refused(value: Any) -> None:
    with pytest.raises(NotJson, match=r"arguments.*surrogate"):
        to_json("arguments", value, maximum=MIB)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {(1, 2): 3}], ids=lambda v: type(v).__name__)
def test_a_type_that_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(NotJson) as refused:
        to_json("result", value, maximum=MIB)
    assert refused.value.what == "result"


def test_json_over_the_size_limit_is_refused_with_the_numbers() -> None:
    with pytest.raises(LimitExceeded) as refused:
        to_json("arguments", {"a": "ä" * 10}, maximum=20)
    assert (refused.value.maximum, refused.value.actual, refused.value.unit) == (20, 28, "bytes")


def test_json_nested_too_deeply_is_refused_before_it_is_written() -> None:
    with pytest.raises(LimitExceeded) as refused:
        to_json("arguments", nested(100_000), maximum=MIB)
    assert refused.value.unit == "levels of nesting"


def test_json_nested_as_deeply_as_allowed_is_written() -> None:
    assert to_json("arguments", nested(3), maximum=MIB, depth=3) == "[[[[]]]]"


def test_nesting_counts_through_objects_and_arrays_alike() -> None:
    value = {"a": [{"b": [1]}]}
    check_depth("result", value, 3)
    with pytest.raises(LimitExceeded):
        check_depth("result", value, 2)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(LimitExceeded):
        to_json("result", value, maximum=MIB)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_whatever_is_json_comes_back_as_it_was(value: Any) -> None:
    text = to_json("arguments", value, maximum=DEFAULT_LIMITS.arguments_bytes)
    assert json.loads(text) == value
    assert size(text) == len(text.encode())


def test_a_short_message_is_left_as_it_is() -> None:
    assert truncate("Rendering…", 64) == "Rendering…"


@given(st.text(max_size=80), st.integers(3, 60))
def test_a_cut_message_fits_and_is_whole_text_that_begins_like_the_original(text: str, maximum: int) -> None:
    shown = truncate(text, maximum)
    assert len(shown.encode()) <= maximum
    if shown != text:
        assert shown.endswith("…")
        assert text.startswith(shown[:-1])


def test_a_message_with_a_lone_surrogate_is_shown_and_not_refused() -> None:
    assert truncate("bad \ud800 text", 64) == "bad ? text"
