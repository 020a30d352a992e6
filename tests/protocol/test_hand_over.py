"""A call of a client without tasks is answered before that client gives up: by its name, and by the tool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.tools import ToolDefinition
from tasks_service.frontend.core.hand_over import HandOverTimes
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.waiting import quickest
from tests.kit.wire import WITHOUT_TASKS, WireClient

CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
HASTY: dict[str, Any] = {"name": "Hasty", "version": "0"}
PATIENT: dict[str, Any] = {"name": "patient", "version": "0"}


def slow() -> str:
    """Takes its time."""
    return "done"


def brief() -> str:
    """Is handed over soon."""
    return "done"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(slow, build_tool(brief, handle_after_ms=400))


@pytest.fixture
def port(redis_url: str, tools: ToolRegistry, tmp_path: Path) -> Iterator[int]:
    configuration = settings(redis_url, tmp_path, handle_after=30, handle_after_by_client="hasty:0.3")
    with serving(tools, configuration) as port:
        yield port


def test_a_client_that_is_known_to_give_up_early_is_answered_earlier(port: int, worker: Worker) -> None:
    with WireClient(port, capabilities=WITHOUT_TASKS) as client, SessionClient([port]) as session:
        begun = session.open(
            "initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": HASTY}
        )
        assert begun.next() is not None
        session.session_id, session.version = begun.headers["mcp-session-id"], "2025-06-18"

        def seconds() -> float:
            began = time.monotonic()
            handed = client.call("slow", meta={CLIENT_INFO: HASTY}).result["content"][0]["text"]
            assert "task_result" in handed
            handed = session.result("tools/call", {"name": "slow", "arguments": {}})["content"][0]["text"]
            assert "task_result" in handed
            return time.monotonic() - began

        assert quickest(seconds, 5.0) < 5.0

        task_id = client.call("slow", meta={CLIENT_INFO: HASTY}).result["content"][0]["text"].split('"')[1]
        began = time.monotonic()
        arguments = {"task_id": task_id, "wait_seconds": 30}
        client.call("task_result", arguments, meta={CLIENT_INFO: HASTY})
        assert time.monotonic() - began < 20


def test_a_tool_says_how_long_its_calls_wait(port: int, worker: Worker) -> None:
    with WireClient(port, capabilities=WITHOUT_TASKS) as client:
        began = time.monotonic()
        handed = client.call("brief", meta={CLIENT_INFO: PATIENT}).result["content"][0]["text"]

    assert "task_result" in handed
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("client", "tool_ms", "seconds"),
    [
        ("", 0, 20.0),
        ("somebody", 0, 20.0),
        ("MCP", 0, 3.5),
        ("somebody", 60_000, 60.0),
        ("somebody", 2_000, 2.0),
        ("mcp", 60_000, 3.5),
        ("mcp", 2_000, 2.0),
        ("slowcoach", 0, 100.0),
        ("somebody", 9_000_000, 3_600.0),
    ],
)
def test_the_shorter_of_what_the_author_says_and_what_is_known_of_the_client_counts(
    client: str, tool_ms: int, seconds: float, tmp_path: Path
) -> None:
    configuration = settings(None, tmp_path, handle_after_by_client="slowcoach:100")
    times = HandOverTimes(
        configuration.handle_after, configuration.handle_after_by_client, configuration.wait_limit
    )

    tool = ToolDefinition(name="tool", input_schema={}, handle_after_ms=tool_ms)

    assert times.of(client, tool) == seconds


@pytest.mark.parametrize("value", ["mcp", "mcp:soon", ":3", "mcp:0", "mcp:-1"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match=r"handle_after_by_client|HANDLE_AFTER_BY_CLIENT"):
        settings(None, tmp_path, handle_after_by_client=value)
