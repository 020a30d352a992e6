"""Functions that people write: what becomes of their signatures, or why they are refused."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NotRequired,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
)

import pytest
from celery import Celery
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_serializer,
)

from tasks_service import (
    AsyncTaskContext,
    ConfigurationError,
    RequestContext,
    RetryPolicy,
    TaskContext,
    TaskService,
    Text,
    ToolResult,
)
from tasks_service.authoring.defined_tool import DefinedTool
from tasks_service.authoring.refusals import Place, Refusal
from tasks_service.authoring.signature import names_around
from tasks_service.authoring.tool import Tool, build_tool
from tasks_service.authoring.tool_options import ToolOptions, tool_fields
from tasks_service.domain.errors import InvalidArguments, LimitExceeded, NotJson
from tasks_service.testing import ToolRun

if TYPE_CHECKING:
    from fractions import Fraction

P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture
def service() -> TaskService:
    return TaskService("signatures")


def tool_of(fn: Callable[..., Any], **options: Any) -> Tool:
    return build_tool(fn, namespace=names_around(1), **options)


def called(fn: Callable[..., Any], arguments: Mapping[str, Any], **options: Any) -> Any:
    """What the function returns when a client calls it with these arguments."""
    tool = tool_of(fn, **options)
    bound = tool.bind(json.loads(tool.check_arguments(arguments)))
    by_position, by_name = tool.passed(bound, "the context")
    return fn(*by_position, **by_name)


def result_of(fn: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """What is recorded of the function's result."""
    tool = tool_of(fn)
    by_position, by_name = tool.passed(tool.bind(arguments))
    recorded: dict[str, Any] = json.loads(tool.render(fn(*by_position, **by_name)).result)
    return recorded


def refusal_of(fn: Any, **options: Any) -> str:
    """The sentence with which a function is refused."""
    with pytest.raises(ConfigurationError) as refused:
        tool_of(fn, **options)
    return str(refused.value)


def problems(fn: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with arguments: the same at a front end with the code, and at one with the definition."""
    tool = tool_of(fn)
    found: list[dict[str, str]] = []
    for offered in (tool, DefinedTool(tool.definition)):
        with pytest.raises(InvalidArguments) as refused:
            offered.check_arguments(arguments)
        found.append(dict(refused.value.problems))
    assert found[0].keys() == found[1].keys()
    return found[0]


# --- A1 -----------------------------------------------------------------------------------------------


def test_decorators_work_without_parentheses(service: TaskService) -> None:
    @service.tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @service.prompt
    def greet(name: str) -> str:
        """Greet."""
        return name

    assert add(1, 2) == 3
    assert greet("Ada") == "Ada"
    assert service.tools["add"].definition.description == "Add."
    assert service.library.prompts.find("greet").description == "Greet."


@pytest.mark.parametrize("decorator", ["tool", "prompt"])
def test_a_name_by_position_is_refused_with_the_option(service: TaskService, decorator: str) -> None:
    with pytest.raises(ConfigurationError, match="did you mean name='add'"):
        getattr(service, decorator)("add")


def test_a_resource_and_a_completion_without_parentheses_say_what_they_need(service: TaskService) -> None:
    with pytest.raises(ConfigurationError, match="expected a URI"):
        service.resource(lambda: "")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected a prompt's name"):
        service.completion(lambda typed: [])  # type: ignore[arg-type]


# --- A2 -----------------------------------------------------------------------------------------------


def test_star_args_are_a_list_and_passed_by_position() -> None:
    def total(first: int, *more: int, last: int = 0) -> list[int]:
        return [first, *more, last]

    assert tool_of(total).definition.input_schema["properties"]["more"] == {
        "title": "More",
        "type": "array",
        "items": {"type": "integer"},
    }
    assert called(total, {"first": 1, "more": [2, 3], "last": 4}) == [1, 2, 3, 4]
    assert called(total, {"first": 1}) == [1, 0]
    assert "more.1" in problems(total, {"first": 1, "more": [2, "x"]})


def test_star_args_after_a_default_do_not_shift_it() -> None:
    def told(a: int = 1, *rest: str) -> Any:
        return a, rest

    assert called(told, {"rest": ["x"]}) == (1, ("x",))


def test_keyword_arguments_are_taken_by_any_name_and_checked_by_their_hint() -> None:
    def told(a: int, **others: int) -> Any:
        return a, others

    assert tool_of(told).definition.input_schema["additionalProperties"] == {"type": "integer"}
    assert called(told, {"a": 1, "b": 2, "c": 3}) == (1, {"b": 2, "c": 3})
    assert "b" in problems(told, {"a": 1, "b": "two"})


def test_keyword_arguments_without_a_hint_take_anything() -> None:
    def told(**others: Any) -> Any:
        return others

    assert tool_of(told).definition.input_schema["additionalProperties"] is True
    assert called(told, {"b": [1, {"c": None}]}) == {"b": [1, {"c": None}]}


def test_keyword_arguments_of_a_typed_dict_are_its_keys() -> None:
    class Options(TypedDict):
        depth: int
        name: NotRequired[str]

    def told(**options: Unpack[Options]) -> Any:
        return options

    schema = tool_of(told).definition.input_schema
    assert (set(schema["properties"]), schema["required"]) == ({"depth", "name"}, ["depth"])
    assert called(told, {"depth": 1}) == {"depth": 1}
    assert called(told, {"depth": 1, "name": "x"}) == {"depth": 1, "name": "x"}
    assert problems(told, {"name": "x"}) == {"depth": "it is required"}


def test_positional_only_parameters_are_passed_by_position() -> None:
    def minus(a: int, b: int = 1, /, *, c: int = 0) -> int:
        return a - b + c

    assert called(minus, {"a": 5}) == 4
    assert called(minus, {"a": 5, "b": 2, "c": 7}) == 10


def test_a_context_is_passed_by_position_where_it_must_be() -> None:
    def told(ctx: TaskContext, /, a: int) -> Any:
        return ctx, a

    assert called(told, {"a": 1}) == ("the context", 1)
    assert set(tool_of(told).definition.input_schema["properties"]) == {"a"}


def test_an_alias_is_the_clients_name() -> None:
    def travel(source: Annotated[str, Field(alias="from")], copy: int = 0, schema: int = 1) -> Any:
        return source, copy, schema

    assert set(tool_of(travel).definition.input_schema["properties"]) == {"from", "copy", "schema"}
    assert called(travel, {"from": "Rome", "copy": 2}) == ("Rome", 2, 1)
    assert "did you mean" in problems(travel, {"from": "Rome", "fron": 1})["fron"]


def test_a_field_as_default_is_read_like_one_in_the_hint() -> None:
    def told(
        a: int = Field(description="How many."),
        b: int = Field(7, ge=1),
        c: list[int] = Field([]),  # noqa: B008
    ) -> Any:
        return a, b, c

    schema = tool_of(told).definition.input_schema
    assert schema["required"] == ["a"]
    assert schema["properties"]["a"]["description"] == "How many."
    assert called(told, {"a": 1}) == (1, 7, [])
    assert "b" in problems(told, {"a": 1, "b": 0})


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    def order(self, item: str) -> str:
        return f"{item} of {self.name}"

    @classmethod
    def close(cls, hour: int) -> str:
        return f"{cls.__name__} closes at {hour}"

    @staticmethod
    def price(cents: int) -> int:
        return cents

    def __call__(self, item: str) -> str:
        return item

    async def later(self, ctx: AsyncTaskContext, item: str) -> str:
        return item


def test_methods_of_an_instance_or_a_class_are_functions() -> None:
    assert called(Shop("us").order, {"item": "tea"}) == "tea of us"
    assert called(Shop.close, {"hour": 8}) == "Shop closes at 8"
    assert called(Shop.price, {"cents": 3}) == 3
    assert called(Shop("us"), {"item": "tea"}, name="buy") == "tea"
    assert tool_of(Shop("us").later).is_async


def test_a_static_method_may_be_decorated_from_either_side() -> None:
    service = TaskService("signatures")

    class Prices:
        @service.tool
        @staticmethod
        def net(cents: int) -> int:
            return cents

        @staticmethod
        @service.tool
        def gross(cents: int) -> int:
            return cents

    assert list(service.tools) == ["gross", "net"]
    assert Prices.net(1) == Prices.gross(1) == 1


def test_partials_and_decorated_functions_have_the_signature_that_is_left() -> None:
    def scale(x: int, by: int) -> int:
        return x * by

    @functools.wraps(scale)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return scale(*args, **kwargs)

    assert called(functools.partial(scale, by=3), {"x": 2}, name="triple") == 6
    assert called(functools.partial(scale, 3), {"by": 2}, name="of_three") == 6
    assert called(logged, {"x": 2, "by": 5}) == 10


def hidden(fn: Callable[P, int]) -> Callable[P, int]:
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> int:
        return fn(*args, **kwargs)

    return wrapper


async def stream(n: int) -> AsyncIterator[int]:
    yield n


def with_socket(s: threading.Thread) -> None: ...
def with_callable(call: Callable[[int], int]) -> None: ...
def with_class(kind: type[int]) -> None: ...
def with_pairs(pairs: dict[tuple[int, int], str]) -> None: ...
def with_codes(codes: dict[Literal[1, 2], str]) -> None: ...
def with_iterator(lines: Iterator[str]) -> None: ...
def with_choices(a: Annotated[int, Field(validation_alias=AliasChoices("a", "b"))]) -> None: ...
def with_twins(a: Annotated[int, Field(alias="b")], b: int) -> None: ...
def with_unknown(a: Fraction) -> None: ...
def with_two(a: TaskContext, b: TaskContext) -> None: ...
def with_async_context(a: AsyncTaskContext) -> None: ...
async def with_sync_context(a: TaskContext) -> None: ...
def with_bare_context(x: int, ctx) -> None: ...  # type: ignore[no-untyped-def]
def with_self(self, x: int) -> None: ...  # type: ignore[no-untyped-def]
def with_bad_default(m: int = "7") -> None: ...  # type: ignore[assignment]
def with_object(o=object()) -> None: ...  # type: ignore[no-untyped-def]  # noqa: B008
def with_result(n: int) -> threading.Lock: ...  # type: ignore[empty-body]
def with_stream() -> AsyncIterator[int]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("fn", "refusal", "parameter"),
    [
        (Shop.order, Refusal.METHOD, "self"),
        (with_self, Refusal.METHOD, "self"),
        (Shop, Refusal.CLASS, None),
        (classmethod(lambda cls: 1), Refusal.NOT_CALLABLE, None),
        (stream, Refusal.ASYNC_GENERATOR, None),
        (max, Refusal.NO_SIGNATURE, None),
        (lambda x: x, Refusal.NAMELESS, None),
        (functools.partial(with_self, 1), Refusal.NAMELESS, None),
        (with_bare_context, Refusal.CONTEXT_WITHOUT_HINT, "ctx"),
        (with_two, Refusal.TWO_CONTEXTS, "a, b"),
        (with_async_context, Refusal.ASYNC_CONTEXT, "a"),
        (with_sync_context, Refusal.SYNC_CONTEXT, "a"),
        (with_unknown, Refusal.UNDEFINED_NAME, "a"),
        (with_socket, Refusal.NO_SCHEMA, "s"),
        (with_callable, Refusal.NO_SCHEMA, "call"),
        (with_class, Refusal.NO_SCHEMA, "kind"),
        (with_iterator, Refusal.ITERATOR, "lines"),
        (with_pairs, Refusal.KEYS, "pairs"),
        (with_codes, Refusal.KEYS, "codes"),
        (hidden(with_self), Refusal.PARAM_SPEC, "args"),  # type: ignore[arg-type]
        (with_choices, Refusal.ALIAS_CHOICES, "a"),
        (with_twins, Refusal.SAME_NAME, "b"),
        (with_bad_default, Refusal.UNFIT_DEFAULT, "m"),
        (with_object, Refusal.STRANGE_DEFAULT, "o"),
        (with_result, Refusal.RESULT_SCHEMA, None),
        (with_stream, Refusal.RESULT_STREAM, None),
    ],
)
def test_what_cannot_work_is_refused_with_place_parameter_and_a_way_out(
    fn: Any, refusal: Refusal, parameter: str | None
) -> None:
    said = refusal_of(fn)
    assert refusal.value.why.partition("{")[0] in said
    assert refusal.value.instead.partition("{")[0] in said
    if parameter is not None:
        assert f"parameter {parameter!r}" in said
    if inspect.isfunction(fn):
        assert f"{fn.__qualname__}, {fn.__code__.co_filename}:{fn.__code__.co_firstlineno}" in said


# --- A3 -----------------------------------------------------------------------------------------------


def test_an_optional_context_is_the_context() -> None:
    def old(x: int, ctx: TaskContext | None = None) -> Any:
        return x, ctx

    def annotated(x: int, ctx: Annotated[TaskContext, "ours"]) -> Any:
        return x, ctx

    for fn in (old, annotated):
        assert set(tool_of(fn).definition.input_schema["properties"]) == {"x"}
        assert called(fn, {"x": 1}) == (1, "the context")


def test_the_sdks_own_context_is_refused() -> None:
    from mcp.server.mcpserver import Context

    def theirs(x: int, ctx: Context) -> None: ...  # type: ignore[type-arg]

    theirs.__annotations__["ctx"] = Context
    assert "annotate it TaskContext" in refusal_of(theirs)


def test_prompts_resources_and_completions_refuse_what_is_no_context_of_theirs(service: TaskService) -> None:
    def bare(scene: str, ctx) -> str:  # type: ignore[no-untyped-def]
        return scene

    def of_tools(scene: str, ctx: TaskContext | None = None) -> str:
        return scene

    def optional(scene: str, ctx: RequestContext | None = None) -> str:
        return scene

    service.prompt(name="known")(optional)
    service.resource("acme://scenes/{scene}")(optional)
    decorators: tuple[Any, ...] = (
        service.prompt,
        service.resource("acme://others/{scene}"),
        service.completion("known", "scene"),
    )
    for decorate in decorators:
        with pytest.raises(ConfigurationError, match=r"'ctx'.*RequestContext"):
            decorate(bare)
        with pytest.raises(ConfigurationError, match="only a tool has a task"):
            decorate(of_tools)


def test_a_parameter_called_context_with_another_hint_is_an_argument() -> None:
    def about(context: str) -> str:
        return context

    assert called(about, {"context": "war"}) == "war"


# --- A4, A23 ------------------------------------------------------------------------------------------


def test_a_parameter_without_a_hint_has_no_type() -> None:
    def old(x, y=1):  # type: ignore[no-untyped-def]
        return x, y

    schema = tool_of(old).definition.input_schema
    assert schema["properties"] == {"x": {"title": "X"}, "y": {"title": "Y", "default": 1}}
    assert called(old, {"x": [1], "y": "text"}) == ([1], "text")


def test_a_default_of_none_lets_null_in() -> None:
    def old(n: int = None, d: dict[str, int] = None) -> Any:  # type: ignore[assignment]  # noqa: RUF013
        return n, d

    schema = tool_of(old).definition.input_schema["properties"]["n"]
    assert schema["default"] is None
    assert {"type": "null"} in schema["anyOf"]
    assert called(old, {}) == (None, None)
    assert called(old, {"n": None, "d": {"a": 1}}) == (None, {"a": 1})


def test_defaults_are_shown_as_json() -> None:
    class Colour(Enum):
        RED = "red"

    def told(
        day: date = date(2026, 1, 2),
        colour: Colour = Colour.RED,
        home: Path = Path("/x"),
        n: Decimal = Decimal("1.5"),
    ) -> Any:
        return day, colour, home, n

    properties = tool_of(told).definition.input_schema["properties"]
    assert {name: each["default"] for name, each in properties.items()} == {
        "day": "2026-01-02",
        "colour": "red",
        "home": "/x",
        "n": "1.5",
    }
    assert called(told, {}) == (date(2026, 1, 2), Colour.RED, Path("/x"), Decimal("1.5"))


def test_a_default_that_can_be_changed_is_new_for_each_call() -> None:
    def collect(item: int, into: list[int] = []) -> list[int]:  # noqa: B006
        into.append(item)
        return into

    tool = tool_of(collect)
    for _ in range(2):
        assert collect(**tool.bind({"item": 1})) == [1]


# --- A5 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retry": 3}, "max_attempts=3"),
        ({"retry": ConnectionError}, r"RetryPolicy\(on=\(ConnectionError,\)\)"),
        ({"retry": (ConnectionError, OSError)}, r"on=\(ConnectionError, OSError,\)"),
        ({"retry": "always"}, "expected a RetryPolicy"),
        ({"timeout": 60}, r"timedelta\(seconds=60\)"),
        ({"grace": 5}, r"timedelta\(seconds=5\)"),
        ({"max_attempts": "3"}, "max_attempts='3': expected a whole number"),
        ({"max_attempts": True}, "max_attempts=True"),
        ({"max_attempts": 0}, "at least 1"),
        ({"time_out": timedelta(1)}, "did you mean timeout="),
        ({"retries": 3}, "did you mean retry="),
        ({"queue": 5}, "queue=5: expected a text"),
        ({"name": 5}, "name=5: expected a text"),
        ({"ask": [1]}, "ask="),
        ({"annotations": {"readOnlyHint": True}}, "annotations="),
        ({"task": True}, "task=True"),
        ({"release_client": 1}, "release_client=1"),
    ],
)
def test_an_option_that_cannot_work_is_refused_with_its_place(options: dict[str, Any], said: str) -> None:
    def work(x: int) -> int:
        return x

    with pytest.raises(ConfigurationError, match=said) as refused:
        tool_fields(Place("Tool 'work'", work), cast("ToolOptions", options), "tasks")
    assert f"{__file__}:{work.__code__.co_firstlineno}" in str(refused.value)


@pytest.mark.parametrize(
    "options", [{"on": ConnectionError}, {"on": (3,)}, {"first_delay": 2}, {"factor": "2"}, {"factor": 0}]
)
def test_a_retry_policy_that_cannot_work_is_refused_when_it_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"RetryPolicy: {next(iter(options))}="):
        RetryPolicy(**options)


def test_options_of_prompts_and_resources_are_refused_alike(service: TaskService) -> None:
    def greet() -> str:
        return ""

    for decorate in (
        lambda **options: service.prompt(**options),
        lambda **options: service.resource("acme://x", **options),
    ):
        with pytest.raises(ConfigurationError, match="did you mean title=") as refused:
            decorate(titel="x")(greet)
        assert f":{greet.__code__.co_firstlineno}" in str(refused.value)
        with pytest.raises(ConfigurationError, match=r"timedelta\(seconds=5\)"):
            decorate(timeout=5)(greet)


# --- A6, A15 ------------------------------------------------------------------------------------------


def counted(n: int) -> Iterator[int]:
    yield from range(n)


def ran(fn: Callable[..., Any], arguments: Mapping[str, Any] | None = None, **options: Any) -> ToolRun:
    service = TaskService("signatures")
    service.tool(**options)(fn)
    return ToolRun(service, next(iter(service.tools)), arguments)


def test_a_generator_is_the_list_of_its_items() -> None:
    assert tool_of(counted).definition.output_schema["properties"]["result"]["type"] == "array"  # type: ignore[index]
    assert ran(counted, {"n": 3}).result == [0, 1, 2]
    assert result_of(counted, n=3)["content"] == [{"type": "text", "text": "[0,1,2]"}]


def test_a_generator_runs_within_its_attempt() -> None:
    def asking(ctx: TaskContext) -> Iterator[int]:
        ctx.sleep(timedelta(hours=1))
        yield 1

    assert ran(asking).result == [1]


def test_a_coroutine_that_a_plain_function_returns_is_awaited() -> None:
    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    def plain(n: int):  # type: ignore[no-untyped-def]
        return later(n)

    def hinted(n: int) -> Any:
        return later(n)

    @functools.wraps(later)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return later(*args, **kwargs)

    assert ran(plain, {"n": 1}).result == "2"
    assert ran(hinted, {"n": 1}).result == "2"
    assert ran(wrapped, {"n": 1}).result == 2
    assert ran(functools.partial(later, 5), name="part").result == 6


@pytest.mark.parametrize(("value", "said"), [(None, "got None"), ("coroutine", "got a coroutine: await it")])
def test_a_forgotten_return_or_await_is_named(value: Any, said: str) -> None:
    async def nothing() -> int:
        return 1

    def count() -> int:
        return nothing() if value else None  # type: ignore[return-value]

    with pytest.raises(NotJson, match=said):
        tool_of(count).render(count())


def test_an_async_tool_that_forgets_to_await_is_told_so() -> None:
    async def inner() -> int:
        return 1

    async def outer() -> int:
        return inner()  # type: ignore[return-value]

    failure = ran(outer).failure
    assert failure is not None
    assert "got a coroutine: await it" in failure.message


# --- A7 -----------------------------------------------------------------------------------------------


class Out(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: int = Field(serialization_alias="ex")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.x * 2


class Row(TypedDict):
    name: Annotated[str, Field(serialization_alias="NAME")]


def test_the_output_schema_describes_what_is_sent() -> None:
    def make() -> Out:
        return Out(x=1)

    schema = tool_of(make).definition.output_schema
    assert schema is not None
    assert set(schema["properties"]) == {"ex", "double"}
    assert result_of(make)["structuredContent"] == {"ex": 1, "double": 2}


def test_names_of_a_typed_dict_are_pythons_in_the_tool_and_aliases_outside() -> None:
    def make() -> Row:
        return {"name": "Ada"}

    assert result_of(make)["structuredContent"] == {"NAME": "Ada"}


# --- A8 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (list[int], [1, 2, 3], "[1,2,3]"),
        (list[int], [], "[]"),
        (None, None, "null"),
        (tuple[int, ...], (), "[]"),
        (bool, False, "false"),
    ],
)
def test_a_value_is_one_text_of_its_json(hint: Any, value: Any, text: str) -> None:
    def plain():  # type: ignore[no-untyped-def]
        return value

    def hinted() -> Any:
        return value

    assert result_of(hinted) == {"content": [{"type": "text", "text": text}]}
    hinted.__annotations__["return"] = hint
    assert result_of(plain) == {"content": [{"type": "text", "text": text}]}
    assert result_of(hinted) == {
        "content": [{"type": "text", "text": text}],
        "structuredContent": {"result": json.loads(text)},
    }


def test_a_text_is_itself_and_blocks_are_themselves() -> None:
    def texts() -> list[str]:
        return ["a", "b"]

    def blocks() -> list[str | Text]:
        return ["a", Text("b")]

    assert result_of(texts)["content"] == [{"type": "text", "text": '["a","b"]'}]
    assert [block["text"] for block in result_of(blocks)["content"]] == ["a", "b"]


# --- A9 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"a": 1}', "null", "[]", "1", '"x"', "true", "NaN", ""])
def test_a_text_stays_the_text_that_was_sent(text: str) -> None:
    def optional(x: str | None = None) -> Any:
        return x

    def either(x: dict[str, int] | str) -> Any:
        return x

    def anything(x) -> Any:  # type: ignore[no-untyped-def]
        return x

    for fn in (optional, either, anything):
        assert called(fn, {"x": text}) == text


class Point(BaseModel):
    x: int


def test_json_that_was_sent_as_text_is_read_where_no_text_is_taken() -> None:
    def told(p: Point, n: int = 0, xs: list[int] | None = None, m: dict[str, Point] | None = None) -> Any:
        return p, n, xs, m

    sent = {"p": '{"x": 1}', "n": "3", "xs": "[1, 2]", "m": '{"a": {"x": 2}}'}
    assert called(told, sent) == (Point(x=1), 3, [1, 2], {"a": Point(x=2)})
    assert DefinedTool(tool_of(told).definition).check_arguments(sent)
    assert "n" in problems(told, {"p": {"x": 1}, "n": "three"})


# --- A10 ----------------------------------------------------------------------------------------------


def test_a_misspelled_argument_is_refused_with_the_nearest() -> None:
    def render(scene: str, frames: int = 24) -> None: ...

    assert tool_of(render).definition.input_schema["additionalProperties"] is False
    assert "did you mean 'scene'?" in problems(render, {"scene": "sea", "scen": "x"})["scen"]
    assert "frames, scene" in problems(render, {"scene": "sea", "qqq": 1})["qqq"]


def test_a_worker_passes_over_what_an_older_signature_had(caplog: pytest.LogCaptureFixture) -> None:
    def render(scene: str) -> str:
        return scene

    recorded = {"scene": "sea", "frames": 24}
    assert tool_of(render).bind(recorded) == {"scene": "sea"}
    schema = {
        "type": "object",
        "properties": {"scene": {}},
        "required": ["scene"],
        "additionalProperties": False,
    }
    assert tool_of(render, input_schema=schema).bind(recorded) == {"scene": "sea"}
    assert caplog.text.count("no longer takes these recorded arguments: frames") == 2


# --- A11, A16 -----------------------------------------------------------------------------------------


class Measured(BaseModel):
    values: list[float]
    best: float | None = None


NAN = float("nan")


@pytest.mark.parametrize(
    ("hint", "value", "path"),
    [
        (dict, {"x": NAN}, "x"),
        (None, {"x": NAN}, "x"),
        (dict[str, Any], {"a": [{"x": NAN}]}, "a.0.x"),
        (Measured, Measured(values=[1.0, NAN]), "values.1"),
        (Measured, Measured(values=[], best=float("inf")), "best"),
        (list[float], [NAN], "0"),
        (float, NAN, "it"),
        (float | None, float("-inf"), "it"),
        (set[float], {NAN}, "0"),
        (tuple[float, str], (NAN, "x"), "0"),
    ],
)
def test_numbers_that_json_does_not_have_are_refused_with_their_path(
    hint: Any, value: Any, path: str
) -> None:
    def measure() -> Any:
        return value

    if hint is None:
        del measure.__annotations__["return"]
    else:
        measure.__annotations__["return"] = hint
    with pytest.raises(NotJson, match=rf"{path} is (nan|-?inf)"):
        tool_of(measure).render(value)


@pytest.mark.parametrize(
    "value", [threading.Lock(), {"a": [threading.Lock()]}, object(), b"\xff", 1j.__class__]
)
def test_what_is_no_json_fails(value: Any) -> None:
    def plain():  # type: ignore[no-untyped-def]
        return value

    with pytest.raises(NotJson, match="cannot be serialised"):
        tool_of(plain).render(value)


# --- A12 ----------------------------------------------------------------------------------------------


def test_the_limit_of_a_result_says_what_it_counts() -> None:
    def long() -> str:
        return "x" * 600 * 1024

    with pytest.raises(LimitExceeded, match="as text and as structured content together"):
        tool_of(long).render(long())

    def unstructured():  # type: ignore[no-untyped-def]
        return "x" * 600 * 1024

    assert len(tool_of(unstructured).render(unstructured()).result) > 600 * 1024


# --- A13 ----------------------------------------------------------------------------------------------


def resize(width: int) -> int:
    return width


def test_a_tool_of_the_name_of_a_celery_task_is_refused_before_the_app_is_finalized() -> None:
    shop = Celery("shop")
    shop.task(name="resize", shared=False)(with_self)
    service = TaskService("signatures", celery=shop)
    assert not shop.finalized
    with pytest.raises(ConfigurationError, match="has a task 'resize' already") as refused:
        service.tool(resize)
    assert str(resize.__code__.co_firstlineno) in str(refused.value)
    assert not shop.finalized
    assert not service.tools


def test_a_tool_of_the_name_of_another_services_tool_is_refused() -> None:
    shop = Celery("shop")
    TaskService("one", celery=shop).tool(resize)
    with pytest.raises(ConfigurationError, match="another service"):
        TaskService("two", celery=shop).tool(resize)
    shop.finalize()
    with pytest.raises(ConfigurationError, match="another service"):
        TaskService("three", celery=shop).tool(resize)


def test_each_service_of_an_app_has_a_boot_step_of_its_own() -> None:
    shop = Celery("shop")
    for name in ("one", "two"):
        TaskService(name, celery=shop)
    ours = {step.name for step in shop.steps["worker"] if ".TasksService." in step.name}
    assert len(ours) == 2


# --- A21 ----------------------------------------------------------------------------------------------


def test_hints_that_are_local_to_an_app_factory_are_resolved() -> None:
    def factory() -> TaskService:
        service = TaskService("signatures")

        class Scene(BaseModel):
            name: str

        @service.tool
        def render(scene: Scene, others: list[Scene] | None = None) -> Scene:
            return scene

        @service.tool(name="draw")
        async def draw(scene: Scene, ctx: AsyncTaskContext) -> list[Scene]:
            return [scene]

        @service.prompt
        def about(context: RequestContext, day: date) -> str:
            return str(day)

        return service

    service = factory()
    assert service.tools["render"].bind({"scene": {"name": "sea"}})["scene"].name == "sea"
    assert service.tools["draw"].context_parameter == "ctx"


def test_hints_in_quotes_within_others_are_resolved() -> None:
    class Scene(BaseModel):
        name: str

    def render(scenes: "list[Scene]", by: "dict[str, 'Scene']") -> "Scene":  # noqa: UP037
        return scenes[0]

    assert called(render, {"scenes": [{"name": "a"}], "by": {"b": {"name": "b"}}}).name == "a"


# --- A22 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", [True, False])
@pytest.mark.parametrize("finalized", [True, False])
def test_a_celery_task_is_not_a_function(bind: bool, finalized: bool) -> None:
    shop = Celery("shop")
    task = shop.task(bind=bind, name="shop.resize", shared=False)(with_self)
    if finalized:
        shop.finalize()
    service = TaskService("signatures", celery=shop)
    with pytest.raises(ConfigurationError, match=r"service\.expose"):
        service.tool()(task)
    assert not service.tools


def test_an_exposed_task_cannot_take_a_context_or_arguments_by_position() -> None:
    shop = Celery("shop")

    @shop.task(name="shop.asks", shared=False)
    def asks(ctx: TaskContext) -> None: ...

    @shop.task(name="shop.sums", shared=False)
    def sums(*numbers: int) -> None: ...

    @shop.task(name="shop.named", shared=False)
    def named(ctx, context=None, **rest):  # type: ignore[no-untyped-def]
        return None

    service = TaskService("signatures", celery=shop)
    with pytest.raises(ConfigurationError, match="update_state"):
        service.expose("shop.asks")
    with pytest.raises(ConfigurationError, match="take it by name"):
        service.expose("shop.sums")
    service.expose("shop.named")
    assert service.tools["named"].definition.input_schema["required"] == ["ctx"]


# --- A24 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop.resize", "x" * 65])
def test_a_name_that_some_hosts_refuse_is_warned_of(name: str) -> None:
    with pytest.warns(UserWarning, match=r"some hosts refuse the name .* 1 to 64"):
        tool_of(resize, name=name)


# --- other kinds of hints -----------------------------------------------------------------------------


class Pair(NamedTuple):
    a: int
    b: str = "x"


@dataclass
class Size:
    width: int


class Box(BaseModel, Generic[T]):
    inside: T


class Names(RootModel[list[str]]): ...


class Tree(BaseModel):
    kids: list[Tree] = []


def test_hints_of_all_kinds_become_values_of_their_kind() -> None:
    def told(
        pair: Pair,
        size: Size,
        box: Box[Size],
        names: Names,
        tree: Tree,
        rows: list[Row],
        items: Iterable[int],
        any_: T,
    ) -> Any:
        return pair, size, box, names, tree, rows, items, any_

    sent: dict[str, Any] = {
        "pair": [1, "y"],
        "size": {"width": 1},
        "box": {"inside": {"width": 2}},
        "names": ["a"],
        "tree": {"kids": [{}]},
        "rows": [{"name": "Ada"}],
        "items": [1, 2],
        "any_": [None],
    }
    got = called(told, sent)
    assert got[:3] == (Pair(1, "y"), Size(1), Box[Size](inside=Size(2)))
    assert got[3:] == (Names(["a"]), Tree(kids=[Tree()]), [{"name": "Ada"}], [1, 2], [None])
    assert "items.1" in problems(told, {**sent, "items": [1, "x"]})


def split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("hint", "accepted", "refused"),
    [
        (int, [3, 3.0, "3"], [3.5, "3.5", True, [3]]),
        (bool, [True, "true"], [1, "yes"]),
        (float, [1, 1.5], [True, "x"]),
        (datetime, ["2026-01-02T03:04:05Z"], [1, "1", "2026"]),
        (date, ["2026-01-02"], ["2026-01-02T00:00:00", 5, "5"]),
        (timedelta, ["PT1S"], [1, "1 day"]),
        (set[int], [[1, 1]], [["1"]]),
        (Literal[1, "a"], [1, "a"], [True, "1"]),
        (bytes, ["a"], [1]),
        (
            Annotated[list[int], BeforeValidator(lambda v: v.split(",") if isinstance(v, str) else v)],
            [[1]],
            ["x"],
        ),
        (dict[int, str], [{"1": "a"}], [{"1": 1}, {"x": "a"}]),
        (Annotated[str, Field(pattern="^a+$", max_length=3)], ["aa"], ["b", "aaaa"]),
    ],
)
def test_what_the_schema_accepts_is_what_is_accepted(
    hint: Any, accepted: list[Any], refused: list[Any]
) -> None:
    def told(x: Any) -> Any:
        return x

    told.__annotations__["x"] = hint
    for value in accepted:
        assert called(told, {"x": value}) is not None
        assert DefinedTool(tool_of(told).definition).check_arguments({"x": value})
    for value in refused:
        with pytest.raises(InvalidArguments):
            tool_of(told).check_arguments({"x": value})


def test_a_result_and_a_function_without_a_hint_promise_nothing() -> None:
    def whole() -> ToolResult:
        return ToolResult("no", is_error=True)

    assert tool_of(whole).definition.output_schema is None
    assert result_of(whole) == {"content": [{"type": "text", "text": "no"}], "isError": True}


@pytest.mark.parametrize("name", ["args", "kwargs"])
def test_prompts_and_resources_list_each_argument(service: TaskService, name: str) -> None:
    def many(*args: str) -> str:
        return ""

    def named(**kwargs: str) -> str:
        return ""

    fn = many if name == "args" else named
    for decorate in (service.prompt, service.resource("acme://{x}")):
        with pytest.raises(ConfigurationError, match=rf"parameter '{name}'.*take each by name"):
            decorate(fn)


def test_arguments_of_a_schema_by_hand_are_passed_by_name() -> None:
    def positional(a: int, /) -> int:
        return a

    schema = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    assert "arguments are passed by name there" in refusal_of(positional, input_schema=schema)


def test_a_serializer_that_does_not_say_what_it_writes_promises_nothing() -> None:
    class Odd(BaseModel):
        n: int

        @field_serializer("n")
        def written(self, value: int):  # type: ignore[no-untyped-def]
            return f"no. {value}"

    def make() -> Odd:
        return Odd(n=1)

    schema = tool_of(make).definition.output_schema
    assert schema is not None
    assert "type" not in schema["properties"]["n"]
    assert result_of(make)["structuredContent"] == {"n": "no. 1"}


def test_a_task_of_the_tools_name_that_comes_later_is_refused_when_the_app_is_finalized() -> None:
    shop = Celery("shop")
    TaskService("one", celery=shop).tool(resize)
    shop.task(name="resize", shared=False)(with_self)
    with pytest.raises(ConfigurationError, match="two tasks 'resize'"):
        shop.finalize()
