"""The examples of the guide "Writing tools", run as the guide says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from tasks_service import Declined, RequestContext, ResourceNotFound, Settings, TaskService
from tasks_service.authoring.prompt import messages_of
from tasks_service.domain.errors import InvalidArguments
from tasks_service.frontend.core.resource_finder import ResourceFinder
from tasks_service.testing import Logged, ToolRun

GUIDE = Path(__file__).parents[2] / "docs/guide-authors.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
TOOLS = (
    "def render(",
    "def chart(",
    "def work(",
    "def convert(",
    "def publish(",
    "def crawl(",
    "def test_what_was_approved",
)
WANTED = ("service.resource(", "service.prompt(", "service.completion(", "input_schema=", "Header(")


class Mood(BaseModel):
    name: str


class Approval(BaseModel):
    agreed: bool


async def fetch(url: str) -> None:
    """What a crawler fetches."""


def module_of(names: Mapping[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    """The module that the examples are together that have one of these words."""
    module: dict[str, Any] = {"__name__": "acme.service", "timedelta": timedelta, **names}
    chosen = [example for example in EXAMPLES if any(word in example for word in words)]
    assert all(any(word in example for example in chosen) for word in words)
    for number, example in enumerate(chosen):
        exec(compile(example, f"{GUIDE.name}, example {number + 1}", "exec", dont_inherit=True), module)
    return module


@pytest.fixture(scope="module")
def acme() -> Mapping[str, Any]:
    """What goes with tools."""
    names = {
        "service": TaskService("Acme", settings=Settings(redis_url=None)),
        "SCENES": {"hall": SimpleNamespace(notes="# Hall"), "kitchen": SimpleNamespace(notes="# Kitchen")},
        "Mood": Mood,
    }
    return module_of(names, WANTED)


@pytest.fixture(scope="module")
def tools() -> Mapping[str, Any]:
    """The tools, with what they call."""
    names: dict[str, Any] = {
        "Approval": Approval,
        "draw": lambda scene, frame: f"https://acme.example/{scene}/{frame}",
        "draw_chart": lambda scene: scene.encode(),
        "handle": str.upper,
        "measure": len,
        "put": lambda url: "published",
        "fetch": fetch,
    }
    module = module_of(names, TOOLS)
    module["service"].tool(module["work"])
    module["service"].tool(module["convert"])
    return module


def run(tools: Mapping[str, Any], name: str, **arguments: Any) -> ToolRun:
    return ToolRun(tools["service"], name, arguments)


def test_a_tool_that_renders(tools: Mapping[str, Any]) -> None:
    rendered = run(tools, "render", scene="hall", frames=2)
    assert rendered.result == ["https://acme.example/hall/0", "https://acme.example/hall/1"]
    assert [progress.current for progress in rendered.all_progress] == [0, 1, 2]


def test_a_tool_that_draws(tools: Mapping[str, Any]) -> None:
    text, image = run(tools, "chart", scene="hall").call_result()["content"]
    assert (text["text"], image["mimeType"]) == ("The chart of hall:", "image/png")


def test_progress_and_log_messages(tools: Mapping[str, Any]) -> None:
    worked = run(tools, "work", items=["a", "b"])
    assert worked.progress is not None
    assert (worked.progress.current, worked.progress.message) == (10, "half-way")
    assert run(tools, "convert", path="a").logs == (
        Logged("info", "found a cover sheet"),
        Logged("notice", {"pages": 12}, "converter"),
    )


def test_an_async_tool(tools: Mapping[str, Any]) -> None:
    assert run(tools, "crawl", urls=["a", "b"]).result == 2


def test_questions_steps_and_sleeps_in_the_test_that_the_guide_shows(tools: Mapping[str, Any]) -> None:
    tools["test_what_was_approved_is_put_once_even_if_the_worker_dies"]()


def test_a_resource(acme: Mapping[str, Any]) -> None:
    resource, arguments = ResourceFinder(acme["service"].library.resources).find("acme://scenes/hall/notes")
    assert resource.function.fn(**arguments) == "# Hall"
    assert (resource.mime_type, resource.cache_ms) == ("text/markdown", 300_000)
    with pytest.raises(ResourceNotFound, match="no scene 'attic'"):
        acme["notes"]("attic")


def test_a_prompt(acme: Mapping[str, Any]) -> None:
    prompt = acme["service"].library.prompts.find("critique")
    arguments = prompt.function.bind("critique", {"scene": "hall", "words": "20"})
    first, second = messages_of(prompt.function.fn(**arguments))
    assert first["content"] == {"type": "text", "text": "Criticise the scene hall in 20 words."}
    assert (first["role"], second["role"]) == ("user", "assistant")
    assert prompt.arguments[0].description == "As in acme://scenes."


def test_a_prompt_that_asks(acme: Mapping[str, Any]) -> None:
    answered = RequestContext(owner="ada", answers={"mood": Mood(name="gloomy")})
    declined = RequestContext(owner="ada", answers={"mood": Declined()})
    assert acme["improvise"]("hall", answered) == "Play hall, gloomy."
    assert acme["improvise"]("hall", declined) == "Play hall."


def test_a_completion(acme: Mapping[str, Any]) -> None:
    completions = acme["service"].library.completions
    template = completions.of_template("acme://scenes/{scene}/notes", "scene")
    assert template.fn("k") == ["kitchen"]
    assert completions.of_prompt("critique", "scene").fn is template.fn


def test_a_schema_by_hand(acme: Mapping[str, Any]) -> None:
    tool = acme["service"].tools["confirm"]
    assert tool.bind({"id": "1", "phone": "2"}) == {"id": "1", "phone": "2"}
    with pytest.raises(InvalidArguments):
        tool.bind({"id": "1"})


def test_a_header(acme: Mapping[str, Any]) -> None:
    tool = acme["service"].tools["store"]
    assert tool.definition.has_headers
    assert tool.definition.input_schema["properties"]["region"]["x-mcp-header"] == "Region"
