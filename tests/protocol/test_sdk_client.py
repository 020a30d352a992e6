"""The official client, with an extension that resolves tasks by polling, as a host would write it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from mcp.client.client import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, Field

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.tools import COMPANION_TOOLS
from tests.kit.hand_worker import Worker

TASKS = "io.modelcontextprotocol/tasks"


class TaskHandle(Result):
    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = Field(default="task", alias="resultType")
    task_id: str = Field(alias="taskId")


class TaskState(Result):
    model_config = ConfigDict(extra="allow")
    status: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class GetTaskParams(RequestParams):
    task_id: str = Field(alias="taskId")


class GetTask(Request[GetTaskParams, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: GetTaskParams
    name_param = "taskId"


class Tasks(ClientExtension):
    identifier = TASKS

    def __init__(self) -> None:
        self.handles: list[str] = []

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=TaskHandle, resolve=self.resolve)]

    async def resolve(self, handle: TaskHandle, context: ClaimContext) -> CallToolResult:
        self.handles.append(handle.task_id)
        while True:
            request = GetTask(params=GetTaskParams(taskId=handle.task_id))
            state = await context.session.send_request(request, TaskState)
            if state.status == "completed":
                return CallToolResult.model_validate(state.result)
            if state.error is not None:
                raise MCPError(state.error["code"], state.error["message"])
            await asyncio.sleep(0.02)


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"


def test_the_official_client_resolves_a_task(port: int, busy_worker: Worker) -> None:
    async def main() -> tuple[CallToolResult, list[str]]:
        extension = Tasks()
        async with Client(url(port), extensions=[extension]) as client:
            await client.list_tools()
            return await client.call_tool("add", {"left": 1, "right": 2}), extension.handles

    result, handles = asyncio.run(main())

    assert result.structured_content == 3
    assert len(handles) == 1


def test_the_official_client_sees_a_failed_task_as_an_error(port: int, busy_worker: Worker) -> None:
    async def main() -> None:
        async with Client(url(port), extensions=[Tasks()]) as client:
            with pytest.raises(MCPError, match="the author says no"):
                await client.call_tool("broken")

    asyncio.run(main())


def test_the_official_client_without_the_extension_gets_plain_results(
    port: int, busy_worker: Worker, tools: ToolRegistry
) -> None:
    async def main() -> list[object]:
        async with Client(url(port)) as client:
            assert client.protocol_version == "2026-07-28"
            listed = (await client.list_tools()).tools
            calls: dict[str, dict[str, Any]] = {
                "add": {"left": 1},
                "names": {},
                "perhaps": {},
                "report": {"title": "T"},
                "tell": {"message": "grüße"},
            }
            results = [await client.call_tool(name, arguments) for name, arguments in calls.items()]
            return [len(listed), *(result.structured_content for result in results)]

    count, *results = asyncio.run(main())

    assert count == len(tools) + len(COMPANION_TOOLS)
    assert results == [2, ["ada", "grace"], {"result": None}, {"title": "T", "pages": 3}, "grüße"]


def test_the_official_client_is_refused_a_tool_that_needs_the_extension(port: int) -> None:
    async def main() -> int:
        async with Client(url(port)) as client:
            with pytest.raises(MCPError) as refused:
                await client.call_tool("heavy")
            return refused.value.code

    assert asyncio.run(main()) == -32021


def test_argument_problems_reach_the_model(port: int) -> None:
    async def main() -> CallToolResult:
        async with Client(url(port), extensions=[Tasks()]) as client:
            return await client.call_tool("greet", {"name": 3})

    result = asyncio.run(main())

    assert result.is_error
    assert "name" in result.content[0].text  # type: ignore[union-attr]
