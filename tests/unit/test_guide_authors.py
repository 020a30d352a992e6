"""The examples of the guide "Writing tools" about what goes with tools, run as the guide says."""

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

GUIDE = Path(__file__).parents[2] / "docs/guide-authors.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
WANTED = ("service.resource(", "service.prompt(", "service.completion(", "input_schema=", "Header(")


class Mood(BaseModel):
    name: str


@pytest.fixture(scope="module")
def acme() -> Mapping[str, Any]:
    """The module that the examples are together."""
    module: dict[str, Any] = {
        "__name__": "acme.service",
        "service": TaskService("Acme", settings=Settings(redis_url=None)),
        "timedelta": timedelta,
        "SCENES": {"hall": SimpleNamespace(notes="# Hall"), "kitchen": SimpleNamespace(notes="# Kitchen")},
        "Mood": Mood,
    }
    chosen = [example for example in EXAMPLES if any(word in example for word in WANTED)]
    assert len(chosen) == 6
    for number, example in enumerate(chosen):
        exec(compile(example, f"{GUIDE.name}, example {number + 1}", "exec", dont_inherit=True), module)
    return module


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
