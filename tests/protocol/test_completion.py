"""Completion of prompts' arguments and templates' variables, in both eras."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import Completion

from tasks_service import RequestContext, Settings, TaskService
from tasks_service.authoring.library import Library
from tests.kit.sessions import SessionClient
from tests.kit.wire import Reply, WireClient

FRAMES = {"kitchen": ["1", "2", "3"], "hall": ["1"]}


@pytest.fixture
def library() -> Library:
    service = TaskService("Acme", settings=Settings(redis_url=None))

    @service.prompt()
    def describe(scene: str, frame: str, style: str = "dry") -> str:
        return f"{scene} {frame} {style}"

    @service.resource("acme://scenes/{scene}")
    def scene_of(scene: str) -> str:
        return scene

    @service.resource("acme://single")
    def single() -> str:
        return "single"

    @service.completion("describe", "scene")
    @service.completion("acme://scenes/{scene}", "scene")
    def scenes(typed: str) -> list[str]:
        return [scene for scene in FRAMES if scene.startswith(typed)]

    @service.completion("describe", "frame")
    async def frames(typed: str, context: RequestContext) -> Any:
        if typed == "many":
            return [str(number) for number in range(150)]
        if typed == "counted":
            return Completion(values=["1"], total=7_000, has_more=True)
        if typed == "odd":
            return "a text"
        assert context.owner
        return FRAMES.get(context.arguments.get("scene", ""), [])

    return service.library


def params(argument: str, typed: str, /, known: Any = None, **ref: str) -> dict[str, Any]:
    kind = "ref/resource" if "uri" in ref else "ref/prompt"
    asked: dict[str, Any] = {"ref": {"type": kind, **ref}, "argument": {"name": argument, "value": typed}}
    return asked if known is None else {**asked, "context": {"arguments": known}}


def complete(client: WireClient, argument: str, typed: str, /, known: Any = None, **ref: str) -> Reply:
    return client.request("completion/complete", params(argument, typed, known, **ref))


def test_completion_is_advertised_where_there_is_some(client: WireClient, session: SessionClient) -> None:
    assert "completions" in client.request("server/discover").result["capabilities"]
    with SessionClient(session.ports) as other:
        assert "completions" in other.initialize()["capabilities"]


def test_an_argument_of_a_prompt_is_completed(client: WireClient) -> None:
    result = complete(client, "scene", "ki", name="describe").result
    assert result["completion"] == {"values": ["kitchen"], "total": 1, "hasMore": False}
    assert result["resultType"] == "complete"


def test_a_variable_of_a_template_is_completed(client: WireClient) -> None:
    result = complete(client, "scene", "", uri="acme://scenes/{scene}").result
    assert result["completion"]["values"] == ["kitchen", "hall"]


def test_what_is_filled_in_already_is_known(client: WireClient) -> None:
    result = complete(client, "frame", "", {"scene": "kitchen"}, name="describe").result
    assert result["completion"]["values"] == ["1", "2", "3"]


def test_a_hundred_values_are_the_most(client: WireClient) -> None:
    found = complete(client, "frame", "many", name="describe").result["completion"]
    assert len(found["values"]) == 100
    assert (found["total"], found["hasMore"]) == (150, True)


def test_a_function_may_count_more_than_it_returns(client: WireClient) -> None:
    found = complete(client, "frame", "counted", name="describe").result["completion"]
    assert found == {"values": ["1"], "total": 7_000, "hasMore": True}


@pytest.mark.parametrize("ref", [{"name": "describe"}, {"uri": "acme://single"}])
def test_where_nothing_completes_there_are_no_values(client: WireClient, ref: Any) -> None:
    found = complete(client, "style", "d", **ref).result["completion"]
    assert found == {"values": [], "total": 0, "hasMore": False}


@pytest.mark.parametrize(
    ("argument", "ref"),
    [
        ("scene", {"name": "nothing"}),
        ("scene", {"uri": "acme://nothing/{scene}"}),
        ("nothing", {"name": "describe"}),
        ("nothing", {"uri": "acme://scenes/{scene}"}),
    ],
)
def test_what_there_is_not_cannot_be_completed(
    client: WireClient, session: SessionClient, argument: str, ref: Any
) -> None:
    assert complete(client, argument, "", **ref).error["code"] == -32602
    assert session.error("completion/complete", params(argument, "", **ref))["code"] == -32602


def test_a_function_that_returns_no_list_has_failed(client: WireClient) -> None:
    assert complete(client, "frame", "odd", name="describe").error["code"] == -32603


def test_sessions_complete_too(session: SessionClient) -> None:
    asked = params("frame", "", {"scene": "hall"}, name="describe")
    assert session.result("completion/complete", asked, at=1) == {
        "completion": {"values": ["1"], "total": 1, "hasMore": False}
    }
