"""Changing the secret of a deployment: what clients hold stays good, and tasks stay their owners'."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.errors import ConfigurationError
from tasks_service.domain.tools import TaskSupport
from tasks_service.durable.questions import Form
from tasks_service.frontend.app import FrontEnd

from ..kit.serving import front_end_of, registry, serving, settings
from ..kit.wire import WITH_TASKS, WireClient

OLD, NEW = "the-secret-of-the-beginning", "the-secret-of-next-year"
CAPABILITIES: dict[str, Any] = {**WITH_TASKS, "elicitation": {}}
YES = {"go_on": {"action": "accept", "content": {"sure": True}}}
SURE = {"type": "object", "properties": {"sure": {"type": "boolean"}}}


def delete() -> str:
    """Asks before it begins."""
    return "deleted"


def note() -> str:
    """Asks nothing."""
    return "noted"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        build_tool(delete, support=TaskSupport.REQUIRED, ask={"go_on": Form("Sure?", SURE)}),
        build_tool(note, support=TaskSupport.REQUIRED),
    )


def go_on(client: WireClient, state: str) -> Any:
    params = {"name": "delete", "arguments": {}, "inputResponses": YES, "requestState": state}
    return client.request("tools/call", params)


def test_a_deployment_whose_secret_is_changed_goes_on_with_what_was_begun(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    before = settings(redis_url, tmp_path, secret=OLD)
    during = settings(redis_url, tmp_path, secret=NEW, accepted_secrets=OLD, owner_secret=OLD)
    after = settings(redis_url, tmp_path, secret=NEW, owner_secret=OLD)
    with serving(tools, before) as port, WireClient(port, capabilities=CAPABILITIES) as client:
        task_id = client.task("note", {})
        old = client.request("tools/call", {"name": "delete", "arguments": {}}).result["requestState"]

    with serving(tools, during) as port, WireClient(port, capabilities=CAPABILITIES) as client:
        new = client.request("tools/call", {"name": "delete", "arguments": {}}).result["requestState"]
        assert client.request("tasks/get", {"taskId": task_id}).result["status"] == "working"
        assert go_on(client, old).result["resultType"] == "task"

    with serving(tools, after) as port, WireClient(port, capabilities=CAPABILITIES) as client:
        assert client.request("tasks/get", {"taskId": task_id}).result["status"] == "working"
        assert go_on(client, new).result["resultType"] == "task"
        assert "requestState" in go_on(client, old).error["message"]


def test_a_front_end_with_another_secret_than_the_first_is_refused_at_start(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    first, second = (settings(redis_url, tmp_path / name, secret=None) for name in ("first", "second"))
    with serving(tools, first) as port, WireClient(port, capabilities=CAPABILITIES) as client:
        task_id = client.task("note", {})

        with pytest.raises(ConfigurationError, match="Set TASKS_SECRET to the same secret"):
            asyncio.run(start(front_end_of(tools, second)))

        assert client.get(task_id)["status"] == "working"


async def start(front_end: FrontEnd) -> None:
    async with front_end.lifespan():
        """It has started."""
