"""What a check against an author's schema may cost: no keyword takes time without bound, nor do several."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from referencing import Registry

from tasks_service.authoring.defined_tool import DefinedTool
from tasks_service.authoring.tool import Tool, build_tool
from tasks_service.domain.errors import ConfigurationError, InvalidArguments
from tasks_service.durable.forms import lower
from tasks_service.durable.json_schema import MOST_PROBLEMS, TOO_COSTLY, problems_of, validator_of
from tasks_service.durable.schema_costs import alternatives_of, unlinear_patterns
from tests.kit.waiting import quickest

EXAMPLES = int(os.environ.get("TASKS_TEST_SCHEMAS", "20"))
VALUES = 10_000

thorough = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def taking(value: Any = None) -> None: ...


def tool_of(schema: Any) -> Tool:
    """A tool whose argument `value` has a schema."""
    return build_tool(taking, input_schema={"type": "object", **schema})


def of_value(schema: Any, **root: Any) -> Tool:
    return tool_of({"properties": {"value": schema}, **root})


def problems(tool: Tool | DefinedTool, arguments: Any) -> tuple[tuple[str, str], ...]:
    try:
        tool.check_arguments(arguments)
    except InvalidArguments as refused:
        return refused.problems
    return ()


def cpu(work: Callable[[], Any], tries: int = 3) -> float:
    """The CPU seconds of this thread for some work, at best."""
    return min(_taken_by(work) for _ in range(tries))


def least_cpu(work: Callable[[], Any], enough: float) -> float:
    """The same, tried again while it is too much: what shares a core makes each try as slow as it likes."""
    return quickest(lambda: _taken_by(work), enough, seconds=20)


def _taken_by(work: Callable[[], Any]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


def nested(levels: int, innermost: Any = None) -> Any:
    value = innermost
    for _ in range(levels):
        value = {"child": value}
    return value


class First(BaseModel):
    x: int = 0
    child: First | Second | None = None


class Second(BaseModel):
    y: int = 0
    child: First | Second | None = None


LOOP = {
    "$defs": {
        "node": {
            "anyOf": [
                {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}, "required": ["x"]},
                {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}, "required": ["y"]},
                {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}},
                {"type": "null"},
            ]
        }
    },
    "properties": {"value": {"$ref": "#/$defs/node"}},
}

PRIME = 2**61 - 1
"""Python's hash of an integer is its remainder by this."""

OBJECTS = [{"name": "x", "size": 1, "tags": ["a"]} for _ in range(VALUES // 5)]

CASES: dict[str, tuple[Tool, Any]] = {
    "a pattern with nested repetition": (of_value({"pattern": "^(a+)+$"}), "a" * 40 + "!"),
    "the same, a million characters": (of_value({"pattern": "^(a+)+$"}), "a" * 1_000_000 + "!"),
    "a pattern for names": (
        of_value({"patternProperties": {"^(a+)+$": False}, "additionalProperties": False}),
        {"a" * 40 + "!": 1},
    ),
    "a pattern for names, unevaluated": (
        of_value({"patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False}),
        {"a" * 40 + "!": 1},
    ),
    "unique objects": (of_value({"uniqueItems": True}), [{"a": index} for index in range(VALUES // 2)]),
    "unique items of many kinds": (
        of_value({"uniqueItems": True}),
        [index if index % 2 else str(index) for index in range(VALUES)],
    ),
    "unique numbers of one hash": (of_value({"uniqueItems": True}), [PRIME * n for n in range(VALUES)]),
    "a large enum": (of_value({"items": {"enum": list(range(2_000))}}), [1_999] * VALUES),
    "a union in a loop": (tool_of(LOOP), nested(60, 1)),
    "references that double": (
        tool_of(
            {
                "$defs": {
                    "a0": {"type": "integer"},
                    **{
                        f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n - 1}"}, {"$ref": f"#/$defs/a{n - 1}"}]}
                        for n in range(1, 30)
                    },
                },
                "properties": {"value": {"items": {"$ref": "#/$defs/a29"}}},
            }
        ),
        ["a"] * 50,
    ),
    "many wrong items": (of_value({"items": {"type": "integer"}}), ["a"] * VALUES),
    "many wrong objects": (
        of_value({"items": {"type": "object", "required": ["a"], "additionalProperties": False}}),
        [{"b": 1}] * (VALUES // 2),
    ),
    "many arms, and a long value": (
        of_value({"anyOf": [{"type": "array", "maxItems": n} for n in range(100)]}),
        ["x" * 90] * VALUES,
    ),
    "right objects": (
        of_value(
            {
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "size": {"type": "integer"},
                        "tags": {"items": {"type": "string"}},
                    },
                    "required": ["name", "size"],
                    "additionalProperties": False,
                }
            }
        ),
        OBJECTS,
    ),
    "names that are not taken": (
        tool_of({"properties": {}, "additionalProperties": False}),
        {f"value{index}": index for index in range(5_000)},
    ),
    "moving references": (
        tool_of(
            {
                "$dynamicAnchor": "node",
                "properties": {"value": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}},
                "$defs": {
                    name: {
                        "type": "object",
                        "properties": {"child": {"$dynamicRef": "#both"}},
                        "required": [name],
                    }
                    for name in "ab"
                }
                | {
                    "both": {
                        "$dynamicAnchor": "both",
                        "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
                    }
                },
            }
        ),
        nested(40),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("offered", ["by its code", "by its definition"])
def test_no_schema_and_no_value_take_more_than_a_bounded_time(case: str, offered: str) -> None:
    tool, value = CASES[case]
    made: Tool | DefinedTool = tool if offered == "by its code" else DefinedTool(tool.definition)
    arguments = value if case == "names that are not taken" else {"value": value}

    # About 20 ms on an idle core; before, these took seconds, minutes, or for ever.
    assert least_cpu(lambda: problems(made, arguments), 0.15) < 0.15


def unions(value: First | Second) -> None: ...


def wrong(values: list[int]) -> None: ...


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: int = 0


class Point(BaseModel):
    x: int
    y: int = 0


def closed(values: Closed) -> None: ...


def in_a_set(values: set[int]) -> None: ...


def by_number(values: dict[int, int]) -> None: ...


def arms(values: list[Closed | Point | int]) -> None: ...


def by_name(values: dict[str, int]) -> None: ...


def table(values: dict[str, int], rows: list[list[int]] | None = None) -> None: ...


HINTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "wrong items": (wrong, ["a"] * VALUES),
    "wrong items, the last": (wrong, [1] * (VALUES - 1) + ["a"]),
    "whole numbers with a point": (wrong, [1.0] * VALUES),
    "wrong values": (by_name, {f"k{index}": "a" for index in range(5_000)}),
    "wrong arms": (arms, ["a"] * VALUES),
    "members that are not taken": (closed, {f"k{index}": 1 for index in range(5_000)}),
    "numbers of one hash in a set": (in_a_set, [PRIME * n for n in range(VALUES)]),
    "a text of too many values": (wrong, "[" + '"a",' * 100_000 + '"a"]'),
    "a text of as many values as are allowed": (wrong, json.dumps(["a"] * 9_990)),
    "a text of objects": (table, "{" + ",".join(f'"{n}":{{}}' for n in range(60_000)) + "}"),
    "keys of one hash": (by_number, {str(PRIME * n): 1 for n in range(5_000)}),
}


@pytest.mark.parametrize("case", HINTS)
@pytest.mark.parametrize("offered", ["by its code", "by its definition"])
def test_no_hint_and_no_value_take_more_than_a_bounded_time(case: str, offered: str) -> None:
    fn, values = HINTS[case]
    tool = build_tool(fn)
    made: Tool | DefinedTool = tool if offered == "by its code" else DefinedTool(tool.definition)

    assert least_cpu(lambda: problems(made, {"values": values}), 0.15) < 0.15


# --- what is said, and when ---------------------------------------------------------------------------


def test_at_most_twenty_problems_are_told() -> None:
    tool = of_value({"items": {"type": "integer"}})

    assert len(problems(tool, {"value": ["a"] * 1_000})) == MOST_PROBLEMS
    assert len(problems(DefinedTool(tool.definition), {"value": ["a"] * 1_000})) == MOST_PROBLEMS
    assert len(problems(build_tool(by_name), {f"n{n}": 1 for n in range(100)})) == MOST_PROBLEMS
    assert [path for path, _ in problems(build_tool(wrong), {"values": ["a", 1, "b"]})] == [
        "values.0",
        "values.2",
    ]


def test_a_problem_quotes_the_beginning_of_a_value_only() -> None:
    tool = of_value({"anyOf": [{"type": "integer"}, {"maxItems": 1}]})
    values = [["x" * 5_000] * 100, "x" * 500_000, {"x" * 5_000: 1}]

    for value in values:
        for _, problem in problems(of_value({"type": "integer"}), {"value": value}):
            assert len(problem) <= 300
    assert all(len(problem) <= 300 for _, problem in problems(tool, {"value": values[0]}))


def test_a_multiple_is_found_of_any_number() -> None:
    tool = of_value({"multipleOf": 0.5})

    assert problems(tool, {"value": 10**400}) == ()
    assert problems(tool, {"value": 0.7}) == (("value", "0.7 is not a multiple of 0.5"),)
    assert problems(of_value({"multipleOf": 0.3}), {"value": 10**400}) != ()


def test_json_that_is_sent_as_text_may_not_hold_more_than_arguments_may() -> None:
    tool = build_tool(wrong)

    assert problems(tool, {"values": json.dumps([1] * 9_000)}) == ()
    for made in (tool, DefinedTool(tool.definition)):
        assert problems(made, {"values": json.dumps([1] * 10_002)})[0][0] == "values"


def test_a_check_that_takes_too_many_steps_says_so_and_what_to_do() -> None:
    arms = [{"type": "object", "properties": {"a": {"type": "string"}}} for _ in range(200)]
    tool = of_value({"items": {"anyOf": [*arms, {}]}})

    assert problems(tool, {"value": [{"a": 1}] * 3}) == ()
    assert problems(tool, {"value": [{"a": 1}] * 2_000}) == (("", TOO_COSTLY),)


def test_a_union_in_a_loop_is_warned_of_with_its_path_and_refused_when_it_is_deep() -> None:
    with pytest.warns(UserWarning, match=r"Tool 'unions' .*anyOf: arms of this union .*discriminator"):
        tool = build_tool(unions)

    assert problems(tool, {"value": nested(5)}) == ()
    assert "nested too deeply" in problems(tool, {"value": nested(40)})[0][1]
    assert least_cpu(lambda: problems(tool, {"value": nested(60)}), 0.05) < 0.05
    # Its schema says it all, and takes no such time.
    assert problems(DefinedTool(tool.definition), {"value": nested(40)}) == ()


def test_what_a_reference_leads_to_is_checked_once_for_each_value() -> None:
    arms = [{"properties": {"child": {"$ref": "#/$defs/node"}, "kind": {"const": kind}}} for kind in "ab"]
    tool = tool_of({"$defs": {"node": {"anyOf": arms}}, "properties": {"value": {"$ref": "#/$defs/node"}}})
    value: Any = {"kind": "b"}
    for _ in range(50):
        value = {"child": value, "kind": "b"}

    # Without that, each level would double the steps, which are not enough for 50.
    assert problems(tool, {"value": value}) == ()
    assert problems(tool, {"value": {**value, "kind": "c"}})[0][0] == "value"


def test_a_union_whose_arm_a_field_tells_is_not_warned_of() -> None:
    schema = {
        "$defs": {
            "A": {"type": "object", "properties": {"child": {"$ref": "#/$defs/U"}}},
            "B": {"type": "object", "properties": {"child": {"$ref": "#/$defs/U"}}},
            "U": {"discriminator": {}, "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]},
        }
    }
    assert not alternatives_of(schema).multiply
    json_like = {
        "$defs": {
            "J": {
                "anyOf": [
                    {"type": "object", "additionalProperties": {"$ref": "#/$defs/J"}},
                    {"type": "array", "items": {"$ref": "#/$defs/J"}},
                    {"type": "string"},
                ]
            }
        }
    }
    assert not alternatives_of(json_like).multiply


LOOK_AHEAD = r"^(?=.*[A-Z])(?=.*\d).+$"


def test_a_pattern_that_could_take_for_ever_is_warned_of_and_left_to_the_worker() -> None:
    with pytest.warns(UserWarning, match=r"properties\.value: '\^\(\?=.*only workers check the arguments"):
        tool = of_value({"pattern": LOOK_AHEAD})

    assert problems(tool, {"value": "wrong"}) == ()
    assert problems(DefinedTool(tool.definition), {"value": "wrong"}) == ()
    with pytest.raises(InvalidArguments, match="does not match"):
        tool.bind({"value": "wrong"})
    assert tool.bind({"value": "Right1"}) == {"value": "Right1"}


def test_a_model_that_asks_for_pythons_patterns_is_left_to_the_worker() -> None:
    class Password(BaseModel):
        model_config = ConfigDict(regex_engine="python-re")

        text: Annotated[str, Field(pattern=r"^(a+)+$")]

    def change(password: Password) -> None: ...

    with pytest.warns(UserWarning, match="only workers check the arguments"):
        tool = build_tool(change, namespace=locals())

    assert problems(tool, {"password": {"text": "a" * 40 + "!"}}) == ()


def test_a_form_with_such_a_pattern_is_refused_with_a_way_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": LOOK_AHEAD}}}

    with pytest.raises(ConfigurationError, match=r"properties\.a.*look-around.*allOf"):
        lower(schema)


def test_patterns_are_found_at_every_position_and_nowhere_else() -> None:
    schema = {
        "properties": {"pattern": {"const": {"pattern": LOOK_AHEAD}}, "a": {"not": {"pattern": "(?!x)"}}},
        "$defs": {"b": {"items": {"patternProperties": {"(?<=x)": True, "x": True}}}},
    }

    assert [found.path for found in unlinear_patterns(schema)] == ["properties.a.not", "$defs.b.items"]


# --- what a check says is what the standard says -------------------------------------------------------

TEXTS = st.sampled_from(["", "a", "aa", "b", "ab", "é"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.0, 10.0**300]), TEXTS
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    by_name = st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(
                ["object", "array", "string", "integer", "number", ["object", "null"], ["array", "boolean"]]
            ),
            "properties": by_name,
            "patternProperties": st.dictionaries(st.sampled_from(["a", "^b", "[bc]"]), inner, max_size=2),
            "additionalProperties": inner,
            "unevaluatedProperties": st.booleans(),
            "unevaluatedItems": st.booleans(),
            "propertyNames": inner,
            "required": st.lists(st.sampled_from("abc"), unique=True, max_size=2),
            "items": inner,
            "prefixItems": several,
            "contains": inner,
            "uniqueItems": st.booleans(),
            "maxItems": st.integers(0, 3),
            "anyOf": several,
            "oneOf": several,
            "allOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "enum": st.lists(JSON, min_size=1, max_size=3),
            "const": JSON,
            "pattern": st.sampled_from(["a", "^b", "^(a+)+$"]),
            "$ref": st.sampled_from(["#/$defs/x", "#/$defs/y"]),
        },
    )


SCHEMAS = st.recursive(st.one_of(st.booleans(), schemas(st.booleans())), schemas, max_leaves=5)


@settings(thorough, max_examples=4 * EXAMPLES)
@given(SCHEMAS, SCHEMAS, SCHEMAS, JSON)
def test_a_check_says_what_the_library_says(schema: Any, x: Any, y: Any, value: Any) -> None:
    whole = {"$defs": {"x": x, "y": y}, "allOf": [schema]}
    theirs = jsonschema.Draft202012Validator(whole, registry=Registry())
    try:
        fits = theirs.is_valid(value)
    except RecursionError:
        return

    found = problems_of(validator_of(whole), value)

    if not found or found[-1].message != TOO_COSTLY:
        assert (not found) == fits


@pytest.mark.parametrize("beside", [{"contains": True}, {"allOf": [{"unevaluatedItems": True}]}], ids=str)
def test_a_schema_that_leads_back_to_itself_ends_the_check_wherever_the_stack_ends(beside: Any) -> None:
    itself = {"$ref": "#/$defs/itself"}
    looping = validator_of({"$defs": {"itself": {**beside, **itself}}, "allOf": [itself]})

    def deeper(frames: int) -> str:
        return deeper(frames - 1) if frames else problems_of(looping, [1])[-1].message

    assert {deeper(frames) for frames in range(12)} == {TOO_COSTLY}


# --- to refuse costs no more than three times as much as to accept -------------------------------------

HINT_OF_ITEMS: dict[str, tuple[Any, Any, Any]] = {
    "numbers": (int, 1, "a"),
    "texts": (str, "a", 1),
    "patterns": (Annotated[str, Field(pattern="^a+$")], "aa", "b"),
    "unions": (Closed | Point | int, {"x": 1}, {"x": "a"}),
    "lists": (list[int], [1, 2], [1, "a"]),
    "objects": (dict[str, int], {"a": 1}, {"a": "b"}),
    "models": (Closed, {"a": 1}, {"b": 1}),
}


@pytest.mark.parametrize("offered", ["by its code", "by its definition"])
@thorough
@given(
    st.sampled_from(sorted(HINT_OF_ITEMS)),
    st.sampled_from([50, 200, 1_000]),
    st.sampled_from(["all", "first", "last", "none is an object"]),
)
def test_to_refuse_costs_at_most_three_times_as_much_as_to_accept(
    offered: str, kind: str, number: int, wrong: str
) -> None:
    hint, right, spoiled = HINT_OF_ITEMS[kind]

    def take(values: Any) -> None: ...

    take.__annotations__["values"] = list[hint]
    tool = build_tool(take)
    made: Tool | DefinedTool = tool if offered == "by its code" else DefinedTool(tool.definition)
    accepted = {"values": [right] * number}
    refused = {"values": list(spoil([right] * number, spoiled, wrong))}
    assert not problems(made, accepted)
    assert problems(made, refused)

    def costs() -> tuple[float, float]:
        return cpu(lambda: problems(made, refused)), cpu(lambda: problems(made, accepted))

    for _ in range(5):
        to_refuse, to_accept = costs()
        if to_refuse <= 3 * to_accept + 0.001:
            return
    pytest.fail(f"{kind}, {number}, {wrong}: {to_refuse:.4f} s to refuse, {to_accept:.4f} s to accept")


def spoil(values: list[Any], spoiled: Any, wrong: str) -> Iterable[Any]:
    for index, value in enumerate(values):
        if wrong == "none is an object":
            yield [None]
        else:
            is_wrong = wrong == "all" or index == (0 if wrong == "first" else len(values) - 1)
            yield json.loads(json.dumps(spoiled)) if is_wrong else value
