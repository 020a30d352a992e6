"""What an author can say of resources, prompts, completions, headers and schemas, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import Field

from tasks_service import ConfigurationError, Form, Header, RequestContext, Settings, TaskContext, TaskService
from tasks_service.frontend.core.resource_finder import ResourceFinder


@pytest.fixture
def service() -> TaskService:
    return TaskService("Acme", settings=Settings(redis_url=None))


def nothing() -> str:
    """Return a text."""
    return "nothing"


def one(scene: str) -> str:
    return scene


def of_caller(context: RequestContext) -> str:
    return context.owner


def of_task(context: TaskContext) -> str:
    return context.task_id


def of_texts(names: list[str]) -> str:
    return ", ".join(names)


def test_a_tool_takes_no_request_context(service: TaskService) -> None:
    with pytest.raises(ConfigurationError, match="no JSON schema"):
        service.tool()(of_caller)


# --- resources ---------------------------------------------------------------------------------------


def test_the_functions_stay_as_they_are(service: TaskService) -> None:
    assert service.resource("acme://nothing")(nothing) is nothing
    assert service.prompt()(nothing) is nothing
    assert service.prompt()(one) is one
    assert service.completion("one", "scene")(one) is one


@pytest.mark.parametrize(
    ("uri", "function", "options", "said"),
    [
        ("scenes", nothing, {}, "expected an absolute URI"),
        ("acme://{scene", one, {}, "acme://{scene"),
        ("acme://{scene}{frame}", one, {}, "acme://{scene}{frame}"),
        ("acme://scenes{/scene*}", one, {}, "has one value here"),
        ("acme://{frame}", one, {}, "parameters that are no part of the URI: scene"),
        ("acme://{scene}", nothing, {}, "no parameter for scene"),
        ("acme://x", nothing, {"mime": "text/plain"}, "no option mime"),
        ("acme://x", nothing, {"timeout": timedelta(0)}, "timeout"),
        ("acme://x", nothing, {"timeout": 5}, "timeout"),
        ("acme://x", nothing, {"timeout": timedelta(hours=1)}, "should be a tool"),
        ("acme://x", nothing, {"cache": timedelta(days=31)}, "cache"),
        ("acme://x", nothing, {"cache": -timedelta(seconds=1)}, "cache"),
        ("acme://x", of_caller, {"public": True}, "sees who asks"),
        ("acme://x", of_task, {}, "only a tool has a task"),
        ("acme://{names}", of_texts, {}, "parameter 'names': what clients send is one text"),
    ],
)
def test_a_resource_that_cannot_work_is_refused_with_a_sentence(
    service: TaskService, uri: str, function: Any, options: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        service.resource(uri, **options)(function)
    assert said in str(refused.value)
    assert not len(service.library.resources)


def test_a_resource_decorator_without_a_uri_is_refused_rather_than_registering_nothing(
    service: TaskService,
) -> None:
    decorator: Any = service.resource
    with pytest.raises(ConfigurationError, match="expected a URI"):
        decorator(nothing)


def test_a_uri_can_be_had_once(service: TaskService) -> None:
    service.resource("acme://x")(nothing)
    with pytest.raises(ConfigurationError, match="already"):
        service.resource("acme://x")(nothing)


def test_a_single_resource_goes_before_templates_and_templates_in_the_order_of_registration(
    service: TaskService,
) -> None:
    service.resource("acme://{scene}", name="first")(one)
    service.resource("acme://{scene}.png", name="second")(one)
    service.resource("acme://hall", name="single")(nothing)
    finder = ResourceFinder(service.library.resources)
    found = [finder.find(uri) for uri in ("acme://hall", "acme://attic", "acme://a.png")]
    assert [(resource.name, arguments) for resource, arguments in found] == [
        ("single", {}),
        ("first", {"scene": "attic"}),
        ("first", {"scene": "a.png"}),
    ]


# --- prompts and completions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (nothing, {"name": "has space"}, "use 1 to 128"),
        (nothing, {"ask": {"name": Form("Name?", {"type": "object"})}}, "take a RequestContext"),
        (of_caller, {"ask": {"name": Form("Name?", {"type": "array"})}}, "ask='name'"),
        (nothing, {"tilte": "x"}, "no option tilte"),
        (of_task, {}, "only a tool has a task"),
        (of_texts, {}, "parameter 'names': what clients send is one text"),
        (nothing, {"timeout": timedelta(days=1)}, "timeout"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused_with_a_sentence(
    service: TaskService, function: Any, options: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        service.prompt(**options)(function)
    assert said in str(refused.value)
    assert not len(service.library.prompts)


def test_a_prompts_name_can_be_had_once(service: TaskService) -> None:
    service.prompt()(nothing)
    with pytest.raises(ConfigurationError, match="already"):
        service.prompt()(nothing)


def two(first: str, second: str) -> list[str]:
    return [first, second]


@pytest.mark.parametrize(
    ("reference", "argument", "function", "said"),
    [
        ("nothing", "scene", one, "no such prompt or template; register that first"),
        ("acme://{frame}", "scene", one, "no such prompt or template"),
        ("one", "frame", one, "no such argument, but scene"),
        ("acme://{scene}", "frame", one, "no such argument, but scene"),
        ("one", "scene", two, "takes one argument"),
        ("one", "scene", nothing, "takes one argument"),
    ],
)
def test_a_completion_that_cannot_work_is_refused_with_a_sentence(
    service: TaskService, reference: str, argument: str, function: Any, said: str
) -> None:
    service.prompt()(one)
    service.resource("acme://{scene}")(one)
    with pytest.raises(ConfigurationError) as refused:
        service.completion(reference, argument)(function)
    assert said in str(refused.value)
    assert not len(service.library.completions)


def test_an_argument_is_completed_by_one_function(service: TaskService) -> None:
    service.prompt()(one)
    service.completion("one", "scene")(one)
    with pytest.raises(ConfigurationError, match="one already"):
        service.completion("one", "scene")(one)


# --- headers -----------------------------------------------------------------------------------------


def of_list(names: Annotated[list[str], Header("Names")]) -> str:
    return str(names)


def of_number(size: Annotated[float, Header("Size")]) -> str:
    return str(size)


def of_maybe(region: Annotated[str | None, Header("Region")] = None) -> str:
    return str(region)


def same_name(
    region: Annotated[str, Header("Region")],
    other: Annotated[str, Field(json_schema_extra={"x-mcp-header": "region"})],
) -> str:
    return region + other


def no_name(region: Annotated[str, Header("")]) -> str:
    return region


def no_token(region: Annotated[str, Header("The Region")]) -> str:
    return region


@pytest.mark.parametrize("function", [of_list, of_number, of_maybe, same_name, no_name, no_token])
def test_a_header_that_cannot_work_is_refused_with_a_sentence(service: TaskService, function: Any) -> None:
    with pytest.raises(ConfigurationError, match="x-mcp-header"):
        service.tool()(function)
    assert not service.tools


# --- schemas by hand ---------------------------------------------------------------------------------

SCENE: dict[str, Any] = {"type": "object", "properties": {"scene": {"type": "string"}}, "required": ["scene"]}


def any_number(*scene: str) -> str:
    return str(scene)


@pytest.mark.parametrize(
    ("function", "schema", "said"),
    [
        (one, {**SCENE, "type": "array"}, '"type": "object"'),
        (one, {**SCENE, "properties": {"scene": {"type": "text"}}}, "no JSON schema"),
        (one, {**SCENE, "$schema": "http://json-schema.org/draft-07/schema#"}, "expected $schema to be"),
        (one, {**SCENE, "properties": {"scene": {"$ref": "#/$defs/scene"}}}, "leads nowhere"),
        (one, {**SCENE, "not": {"$ref": "https://elsewhere.example/schema"}}, "leads nowhere"),
        (one, {**SCENE, "required": []}, "does not require scene"),
        (nothing, SCENE, "no parameter for scene"),
        (one, "{}", "expected a mapping"),
        (any_number, SCENE, "passed by name"),
        (one, {**SCENE, "default": float("nan")}, "not valid JSON"),
    ],
)
def test_a_schema_that_cannot_work_is_refused_with_a_sentence(
    service: TaskService, function: Any, schema: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        service.tool(input_schema=schema)(function)
    assert said in str(refused.value)
    assert not service.tools


def test_a_schema_by_hand_leaves_the_result_to_the_signature(service: TaskService) -> None:
    service.tool(input_schema=SCENE)(one)
    tool = service.tools["one"]
    assert tool.definition.input_schema == SCENE
    assert tool.definition.output_schema is not None
    assert tool.bind({"scene": "hall", "more": 1}) == {"scene": "hall"}


def test_references_within_a_schema_are_followed(service: TaskService) -> None:
    schema = {
        **SCENE,
        "$defs": {"short": {"$anchor": "short", "type": "string", "maxLength": 3}},
        "properties": {"scene": {"$ref": "#short"}},
    }
    service.tool(input_schema=schema)(one)
    assert service.tools["one"].bind({"scene": "bay"}) == {"scene": "bay"}
