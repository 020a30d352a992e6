# ruff: noqa: E501
"""The contract of registration, for generated signatures: arguments, defaults and results of all kinds.

Each example is a function with up to four parameters. What it is called with through its tool is compared
with what it was given directly; what is accepted, with what its JSON schema accepts; what is sent, with its
output schema, in both revisions of the protocol.
"""

from __future__ import annotations

import json
import string
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypeVar, Union
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    computed_field,
    field_serializer,
)
from typing_extensions import TypeAliasType, TypedDict

from tasks_service.authoring.defined_tool import DefinedTool
from tasks_service.authoring.tool import Tool, build_tool
from tasks_service.domain.errors import InvalidArguments
from tasks_service.domain.task import JsonText
from tasks_service.domain.tools import ToolDefinition, Tools
from tasks_service.durable.json_schema import validator_of
from tasks_service.frontend.core.catalogue import FixedCatalogue
from tasks_service.frontend.v2025_11_25 import wire as wire_2025
from tasks_service.frontend.v2026_07_28 import wire as wire_2026
from tasks_service.store.clients import TaskView
from tests.kit.factories import completed

T = TypeVar("T")

thorough = settings(
    max_examples=500,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# --- kinds of hints -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A hint, and values of it.

    Attributes:
        hint: The hint.
        values: Its values.
        json: The JSON types that its values are sent as; kinds of a union must differ in them.
        hashable: Whether its values can be in a set.
    """

    hint: Any
    values: st.SearchStrategy[Any]
    json: frozenset[str]
    hashable: bool = True


def kind(hint: Any, values: st.SearchStrategy[Any], *sent_as: str, hashable: bool = True) -> Kind:
    return Kind(hint, values, frozenset(sent_as), hashable)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 9


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Size(BaseModel):
    model_config = ConfigDict(frozen=True)
    width: int
    unit: str = "px"


class Renamed(BaseModel):
    model_config = ConfigDict(frozen=True)
    start: Annotated[date, Field(alias="from")]
    size: Size | None = None


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    n: Annotated[int, Field(ge=0)]


class Box(BaseModel, Generic[T]):
    model_config = ConfigDict(frozen=True)
    inside: T


class Names(RootModel[tuple[str, ...]]):
    model_config = ConfigDict(frozen=True)


class Tree(BaseModel):
    name: str
    kids: list[Tree] = []


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0
    tags: tuple[str, ...] = dataclass_field(default=())


class Pair(NamedTuple):
    a: int
    b: str = "x"


class Shown(BaseModel):
    """Sent under other names than it is read, and with more."""

    n: int = Field(serialization_alias="number")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.n * 2

    @field_serializer("n")
    def as_text(self, value: int) -> str:
        return str(value)


class Row(TypedDict):
    name: str
    age: NotRequired[int]


class Cat(BaseModel):
    model_config = ConfigDict(frozen=True)
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    model_config = ConfigDict(frozen=True)
    kind: Literal["dog"] = "dog"
    loud: bool


Age = TypeAliasType("Age", Annotated[int, Field(ge=0, le=150)])

INTEGERS = st.integers(-(2**53), 2**53)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
TEXTS = st.text(string.ascii_letters + "äß𝄞 {}[]\"'0123456789", max_size=8)
NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=4)
DATES = st.dates(date(1970, 1, 2), date(2200, 1, 1))
SIZES = st.builds(Size, width=INTEGERS, unit=TEXTS)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)

ANYTHING = ("string", "number", "boolean", "null", "array", "object")

PLAIN = [
    kind(int, INTEGERS, "number"),
    kind(str, TEXTS, "string"),
    kind(bool, st.booleans(), "boolean"),
    kind(float, FLOATS, "number"),
    kind(None, st.none(), "null"),
    kind(Decimal, st.decimals(-(10**6), 10**6, places=3), "string", "number"),
    kind(datetime, st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)), "string"),
    kind(date, DATES, "string"),
    kind(timedelta, st.timedeltas(timedelta(0), timedelta(days=400)), "string"),
    kind(UUID, st.uuids(), "string"),
    kind(PurePosixPath, st.builds(PurePosixPath, NAMES), "string"),
    kind(bytes, TEXTS.map(str.encode), "string"),
    kind(Colour, st.sampled_from(Colour), "string"),
    kind(Level, st.sampled_from(Level), "number"),
    kind(Mood, st.sampled_from(Mood), "string"),
    kind(Mixed, st.sampled_from(Mixed), "string", "number"),
    kind(Literal["a", "b"], st.sampled_from(["a", "b"]), "string"),
    kind(Literal[1, 2, "c"], st.sampled_from([1, 2, "c"]), "string", "number"),
    kind(Annotated[int, Field(gt=0, le=10, description="Few.")], st.integers(1, 10), "number"),
    kind(Annotated[str, Field(min_length=1, max_length=3)], st.text("abc", min_size=1, max_size=3), "string"),
    kind(Annotated[str, Field(pattern="^a+$")], st.text("a", min_size=1, max_size=3), "string"),
    kind(Annotated[str, AfterValidator(str)], TEXTS, "string"),
    kind(Age, st.integers(0, 150), "number"),
    kind(Size, SIZES, "object"),
    kind(Renamed, st.builds(lambda day, size: Renamed.model_validate({"from": day, "size": size}), DATES, SIZES | st.none()), "object"),
    kind(Closed, st.builds(Closed, n=st.integers(0, 9)), "object"),
    kind(Names, st.builds(Names, st.lists(TEXTS, max_size=2).map(tuple)), "array"),
    kind(Tree, st.builds(Tree, name=TEXTS, kids=st.lists(st.builds(Tree, name=TEXTS), max_size=2)), "object", hashable=False),
    kind(Point, st.builds(Point, x=FLOATS, y=FLOATS, tags=st.lists(TEXTS, max_size=2).map(tuple)), "object"),
    kind(Pair, st.builds(Pair, a=INTEGERS, b=TEXTS), "array", "object"),
    kind(Row, st.fixed_dictionaries({"name": TEXTS}, optional={"age": INTEGERS}), "object", hashable=False),
    kind(
        Annotated[Cat | Dog, Field(discriminator="kind")],
        st.builds(Cat, lives=INTEGERS) | st.builds(Dog, loud=st.booleans()),
        "object",
    ),
    kind(Any, JSON, *ANYTHING, hashable=False),
    kind(dict, st.dictionaries(NAMES, JSON, max_size=2), "object", hashable=False),
]  # fmt: skip

KEYS = [
    kind(str, NAMES, "string"),
    kind(int, st.integers(-99, 99), "string"),
    kind(date, DATES, "string"),
    kind(Colour, st.sampled_from(Colour), "string"),
    kind(UUID, st.uuids(), "string"),
]


@st.composite
def kinds(draw: st.DrawFn, depth: int = 2) -> Kind:
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return draw(st.sampled_from(PLAIN))
    made: Kind = draw(st.sampled_from(MAKERS))(draw, depth)
    return made


def a_list(draw: st.DrawFn, depth: int) -> Kind:
    of = draw(kinds(depth - 1))
    hint = draw(st.sampled_from([list, Sequence]))
    return kind(hint[of.hint], st.lists(of.values, max_size=2), "array", hashable=False)


def a_deque(draw: st.DrawFn, depth: int) -> Kind:
    of = draw(kinds(depth - 1))
    return kind(deque[of.hint], st.lists(of.values, max_size=2).map(deque), "array", hashable=False)  # type: ignore[name-defined]


def a_set(draw: st.DrawFn, depth: int) -> Kind:
    of = draw(kinds(depth - 1).filter(lambda found: found.hashable))
    if draw(st.booleans()):
        return kind(frozenset[of.hint], st.frozensets(of.values, max_size=2), "array")  # type: ignore[name-defined]
    return kind(set[of.hint], st.sets(of.values, max_size=2), "array", hashable=False)  # type: ignore[name-defined]


def a_tuple(draw: st.DrawFn, depth: int) -> Kind:
    one, other = draw(kinds(depth - 1)), draw(kinds(depth - 1))
    hashable = one.hashable and other.hashable
    if draw(st.booleans()):
        return kind(
            tuple[one.hint, ...], st.lists(one.values, max_size=2).map(tuple), "array", hashable=one.hashable
        )  # type: ignore[name-defined]
    return kind(tuple[one.hint, other.hint], st.tuples(one.values, other.values), "array", hashable=hashable)  # type: ignore[name-defined]


def a_mapping(draw: st.DrawFn, depth: int) -> Kind:
    key, of = draw(st.sampled_from(KEYS)), draw(kinds(depth - 1))
    hint = draw(st.sampled_from([dict, Mapping]))
    return kind(
        hint[key.hint, of.hint], st.dictionaries(key.values, of.values, max_size=2), "object", hashable=False
    )


def an_optional(draw: st.DrawFn, depth: int) -> Kind:
    of = draw(kinds(depth - 1))
    return Kind(Optional[of.hint], st.none() | of.values, of.json | {"null"}, of.hashable)  # noqa: UP045


def a_union(draw: st.DrawFn, depth: int) -> Kind:
    one = draw(kinds(depth - 1))
    other = draw(kinds(depth - 1))
    if one.json & other.json:
        return one
    return Kind(
        Union[one.hint, other.hint],  # noqa: UP007
        one.values | other.values,
        one.json | other.json,
        one.hashable and other.hashable,
    )


def a_box(draw: st.DrawFn, depth: int) -> Kind:
    of = draw(kinds(depth - 1))
    return kind(
        Box[of.hint], of.values.map(lambda value: Box[of.hint](inside=value)), "object", hashable=of.hashable
    )  # type: ignore[name-defined]


def a_constrained_list(draw: st.DrawFn, depth: int) -> Kind:
    of = draw(kinds(depth - 1))
    hint = Annotated[list[of.hint], Field(min_length=1, max_length=3)]  # type: ignore[name-defined]
    return kind(hint, st.lists(of.values, min_size=1, max_size=3), "array", hashable=False)


MAKERS: list[Callable[[st.DrawFn, int], Kind]] = [
    a_list, a_deque, a_set, a_tuple, a_mapping, an_optional, a_union, a_box, a_constrained_list
]  # fmt: skip


# --- functions ----------------------------------------------------------------------------------------

OMITTED = object()


@dataclass(frozen=True)
class Argument:
    """A parameter of a generated function, and what is sent for it."""

    name: str
    sent_as: str
    form: str
    kind: Kind
    hinted: bool
    default: Any
    value: Any

    @property
    def got(self) -> Any:
        """What the function must get."""
        if self.value is not OMITTED:
            return self.value
        return () if self.form == "rest" else {} if self.form == "extras" else self.default


@dataclass(frozen=True)
class Case:
    """A generated function, and a call of it."""

    fn: Callable[..., dict[str, Any]]
    arguments: tuple[Argument, ...]

    @property
    def sent(self) -> dict[str, Any]:
        """The JSON that a client sends."""
        sent: dict[str, Any] = {}
        for each in self.arguments:
            if each.value is OMITTED:
                continue
            if each.form == "extras":
                sent.update({name: as_json(each, value) for name, value in each.value.items()})
            elif each.form == "rest":
                sent[each.sent_as] = [as_json(each, value) for value in each.value]
            else:
                sent[each.sent_as] = as_json(each, each.value)
        return travelled(sent)

    @property
    def got(self) -> dict[str, Any]:
        """What the function gets when it is called directly."""
        return {each.name: tuple(each.got) if each.form == "rest" else each.got for each in self.arguments}


def travelled(value: Any) -> Any:
    return json.loads(json.dumps(value))


def as_json(argument: Argument, value: Any) -> Any:
    hint = argument.kind.hint if argument.hinted else Any
    return TypeAdapter(hint).dump_python(value, mode="json", by_alias=True)


FORMS = ["positional", "named", "named", "named", "rest", "keyword", "keyword", "extras"]
ORDER = ["positional", "named", "rest", "keyword", "extras"]
MARKS = {"rest": "*", "extras": "**"}


@st.composite
def arguments(draw: st.DrawFn, index: int, form: str) -> Argument:
    of = draw(kinds())
    hinted = draw(st.integers(0, 9)) > 0
    values = of.values if hinted else JSON
    default, value = OMITTED, draw(values)
    if form == "rest":
        value = tuple(draw(st.lists(values, max_size=2)))
    elif form == "extras":
        value = draw(st.dictionaries(NAMES.map(lambda name: f"x_{name}"), values, max_size=2))
    elif draw(st.booleans()):
        default = draw(values)
        value = draw(st.sampled_from([value, OMITTED]))
    aliased = hinted and form not in ("rest", "extras") and draw(st.integers(0, 5)) == 0
    return Argument(
        f"p{index}", f"an-alias {index}" if aliased else f"p{index}", form, of, hinted, default, value
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    forms = draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=4))
    forms = [form for number, form in enumerate(forms) if form not in MARKS or form not in forms[:number]]
    forms.sort(key=ORDER.index)
    made = [draw(arguments(index, form)) for index, form in enumerate(forms)]
    by_position = [each for each in made if each.form in ("positional", "named")]
    late = next((index for index, each in enumerate(by_position) if each.default is not OMITTED), len(made))
    fixed = [
        Argument(**{**vars(each), "default": each.got})
        if each in by_position[late:] and each.default is OMITTED
        else each
        for each in made
    ]
    return Case(function(fixed), tuple(fixed))


def function(arguments: Sequence[Argument]) -> Callable[..., dict[str, Any]]:
    """A function of these parameters, which returns what it got."""
    parts, defaults = [], {}
    for position, each in enumerate(arguments):
        default = ""
        if each.default is not OMITTED:
            defaults[f"d{position}"], default = each.default, f"=d{position}"
        parts.append(f"{MARKS.get(each.form, '')}{each.name}{default}")
        following = arguments[position + 1].form if position + 1 < len(arguments) else ""
        if each.form == "positional" and following != "positional":
            parts.append("/")
        if following == "keyword" and each.form not in ("rest", "keyword"):
            parts.append("*")
    if arguments and arguments[0].form == "keyword":
        parts.insert(0, "*")
    scope: dict[str, Any] = {**defaults}
    exec(f"def made({', '.join(parts)}):\n    return dict(locals())", scope)
    made: Callable[..., dict[str, Any]] = scope["made"]
    made.__annotations__ = {each.name: aliased(each) for each in arguments if each.hinted}
    return made


def aliased(argument: Argument) -> Any:
    if argument.sent_as == argument.name:
        return argument.kind.hint
    return Annotated[argument.kind.hint, Field(alias=argument.sent_as)]


# --- the laws -----------------------------------------------------------------------------------------


@thorough
@given(cases())
def test_a_function_gets_what_it_would_get_if_it_were_called_directly(case: Case) -> None:
    tool = build_tool(case.fn)
    text = tool.check_arguments(case.sent)
    by_position, by_name = tool.passed(tool.bind(json.loads(text)))
    got = case.fn(*by_position, **by_name)
    assert comparable(got) == comparable(case.got)
    assert DefinedTool(tool.definition).check_arguments(case.sent) == text
    assert ToolDefinition.from_document(travelled(tool.definition.to_document())) == tool.definition


def comparable(value: Any) -> Any:
    """A value as what differs where Python's == sees no difference, as between 1 and True."""
    if isinstance(value, dict):
        return type(value), sorted(
            ((comparable(key), comparable(inner)) for key, inner in value.items()), key=repr
        )
    if isinstance(value, list | tuple | deque):
        return type(value), [comparable(each) for each in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted((comparable(each) for each in value), key=repr)
    if isinstance(value, datetime):
        return type(value), value.isoformat()
    if isinstance(value, BaseModel):
        return type(value), comparable(dict(value))
    return type(value), repr(value)


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[Case, dict[str, Any]]:
    """A case, and arguments in which one value, somewhere, was replaced or left out; perhaps it fits none the less."""
    case = draw(cases())
    sent = case.sent
    replacement = draw(
        JSON | st.sampled_from(["3", "1.5", "true", "null", "[]", "{}", 3.0, 1e3, "2026-01-02"])
    )
    paths = list(places(sent))
    path = draw(st.sampled_from(paths)) if paths else ()
    if path and isinstance(path[-1], str) and draw(st.integers(0, 4)) == 0:
        return case, replaced(sent, path, OMITTED)
    return case, replaced(sent, path, replacement) if path else {**sent, "p0": replacement}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        changed = {**value, path[0]: replaced(value[path[0]], path[1:], new)}
        return {name: inner for name, inner in changed.items() if inner is not OMITTED}
    return [
        replaced(inner, path[1:], new) if index == path[0] else inner for index, inner in enumerate(value)
    ]


@thorough
@given(spoiled())
def test_what_the_schema_accepts_is_accepted_and_nothing_else(spoiled: tuple[Case, dict[str, Any]]) -> None:
    case, sent = spoiled
    tool = build_tool(case.fn)
    schema = tool.definition.input_schema
    accepted = is_accepted(tool, sent)
    assert accepted == is_accepted(DefinedTool(tool.definition), sent)
    assert accepted == validator_of(schema).is_valid(read_where_no_text_fits(schema, sent))


def is_accepted(tool: Tool | DefinedTool, sent: dict[str, Any]) -> bool:
    try:
        tool.check_arguments(sent)
    except InvalidArguments:
        return False
    return True


def read_where_no_text_fits(schema: Mapping[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    """What hosts that send JSON as text mean: read where the schema accepts no text at all."""
    read = {}
    for name, value in sent.items():
        one = {**schema["properties"].get(name, {}), "$defs": schema.get("$defs", {})}
        read[name] = value
        if isinstance(value, str) and name in schema["properties"] and not texts_fit(one):
            try:
                decoded = json.loads(value)
            except ValueError:
                continue
            read[name] = value if isinstance(decoded, str) else decoded
    return read


TEXTS_TO_TRY = (
    "a", "aa", "ab", "abc", "b", "c", "red", "good", "two", "2026-01-02", "2026-01-02T03:04:05Z", "PT1S", "1",
    "12345678-1234-5678-1234-567812345678",
)  # fmt: skip


def texts_fit(schema: Mapping[str, Any]) -> bool:
    validator = validator_of(schema)
    return any(validator.is_valid(text) for text in TEXTS_TO_TRY)


SHOWN = kind(Shown, st.builds(Shown, n=INTEGERS), "object", hashable=False)
MANY_SHOWN = kind(list[Shown], st.lists(SHOWN.values, max_size=2), "array", hashable=False)


@st.composite
def results(draw: st.DrawFn) -> tuple[Kind, Any]:
    of = draw(st.sampled_from([SHOWN, MANY_SHOWN])) if draw(st.integers(0, 9)) == 0 else draw(kinds())
    return of, draw(of.values)


@thorough
@given(results())
def test_what_is_sent_matches_the_output_schema_and_means_what_was_returned(result: tuple[Kind, Any]) -> None:
    of, value = result

    def make() -> Any:
        return value

    make.__annotations__["return"] = of.hint
    tool = build_tool(make)
    rendered = tool.render(value)
    recorded = json.loads(rendered.result)
    if tool.definition.output_schema is None:
        assert of.hint is Any
        assert "structuredContent" not in recorded
        return
    structured = recorded["structuredContent"]
    bare = structured["result"] if tool.definition.wraps_output else structured
    Draft202012Validator(tool.definition.output_schema).validate(structured)
    (block,) = recorded["content"]
    assert block["text"] == bare if isinstance(bare, str) else json.loads(block["text"]) == bare
    if of not in (SHOWN, MANY_SHOWN):
        back = TypeAdapter(of.hint).validate_json(json.dumps(bare))
        assert comparable(back) == comparable(value)
    check_revisions(tool, rendered.result)


def check_revisions(tool: Tool, recorded: str) -> None:
    """What either revision lists as the output schema fits what it sends."""
    catalogue = FixedCatalogue("service", Tools(tool))
    view = TaskView(task=completed(tool.name), result=JsonText(recorded))
    older, newer = wire_2025.Results(catalogue), wire_2026.Results(catalogue)
    for listed, sent in (
        (json.loads(json.dumps(older.listing("2025-11-25"))), older.call(view)),
        (json.loads(json.dumps(newer.listing())), newer.call(view)),
    ):
        (one,) = listed["tools"]
        Draft202012Validator(one["outputSchema"]).validate(sent["structuredContent"])
