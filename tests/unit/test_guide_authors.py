"""The guide "Writing tools": its examples are one module, and do what the guide says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks_service import Declined, RequestContext, ResourceNotFound
from tasks_service.authoring.prompt import messages_of
from tasks_service.domain.errors import InvalidArguments
from tasks_service.domain.task import TaskStatus
from tasks_service.frontend.core.resource_finder import ResourceFinder
from tasks_service.testing import Logged, ToolRun
from tests.kit.pages import ROOT, run_as_one_module

GUIDE = ROOT / "docs/guide-authors.md"


@pytest.fixture(scope="module")
def acme() -> Mapping[str, Any]:
    """The module that the examples are together."""
    return run_as_one_module(GUIDE, "acme.service")


def result(acme: Mapping[str, Any], tool: str, **arguments: Any) -> Any:
    """The result of a tool of the guide."""
    run = ToolRun(acme["service"], tool, arguments)
    assert run.status is TaskStatus.COMPLETED, run.failure
    return run.result


def test_every_tool_of_the_guide_has_a_description(acme: Mapping[str, Any]) -> None:
    tools = acme["service"].tools.values()
    assert len(tools) >= 15
    assert [tool.name for tool in tools if not tool.definition.description] == []


def test_the_first_tool(acme: Mapping[str, Any]) -> None:
    frames = result(acme, "render", scene="kitchen", frames=2)
    assert frames == ["https://renders.example/kitchen/0.png", "https://renders.example/kitchen/1.png"]


def test_a_model_as_a_result(acme: Mapping[str, Any], tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,height\nann,1.7\n")
    found = result(acme, "profile", path=str(tmp_path / "people.csv"))
    assert found == {"rows": 1, "columns": ["name", "height"]}


def test_contents(acme: Mapping[str, Any]) -> None:
    text, image = ToolRun(acme["service"], "chart", {"scene": "hall"}).call_result()["content"]
    assert (text["text"], image["mimeType"]) == ("The chart of hall:", "image/png")
    recorded = ToolRun(acme["service"], "recording", {"scene": "hall"}).call_result()
    assert [block["type"] for block in recorded["content"]] == ["text", "audio", "resource_link", "resource"]


def test_errors(acme: Mapping[str, Any]) -> None:
    kitchen, cellar, attic, roof = (
        ToolRun(acme["service"], "licences", {"scene": scene})
        for scene in ("kitchen", "cellar", "attic", "roof")
    )
    assert (kitchen.result, kitchen.is_error) == (3, False)
    assert cellar.error == "There is no scene called 'cellar'."
    assert attic.status is TaskStatus.FAILED and "4001" in str(attic.failure)
    assert roof.is_error and "broken" not in str(roof.error)


def test_progress_and_log_messages(acme: Mapping[str, Any]) -> None:
    copied = ToolRun(acme["service"], "copy", {"items": ["a", "b"]})
    assert copied.progress is not None
    assert (copied.progress.current, copied.progress.message) == (2, "almost done")
    assert ToolRun(acme["service"], "convert", {"path": "a"}).logs == (
        Logged("info", "found a cover sheet"),
        Logged("notice", {"pages": 12}, "converter"),
    )


def test_variables(acme: Mapping[str, Any]) -> None:
    assert result(acme, "upload", parts=["a", "b"]) == 2


def test_retries_and_async_tools(acme: Mapping[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("hello")
    assert result(acme, "fetch", url=page.as_uri()) == "hello"
    assert result(acme, "crawl", urls=[page.as_uri()] * 2) == 2


def test_the_tests_of_the_guide_pass(acme: Mapping[str, Any]) -> None:
    tests = [test for name, test in acme.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_an_exposed_celery_task(acme: Mapping[str, Any]) -> None:
    assert acme["service"].tools["reindex"].definition.description == "Rebuild the search index."
    assert result(acme, "reindex") == "all is new"


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
    answered = RequestContext(owner="ada", answers={"mood": acme["Mood"](name="gloomy")})
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
