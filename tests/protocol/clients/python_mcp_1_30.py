"""The official Python client 1.30 and its tasks, as a program of its own: it cannot be installed beside 2.x.

Started with the URL of a server; prints what it saw, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mcp import ClientSession, types
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError


async def main(url: str) -> dict[str, Any]:
    statuses: list[str] = []
    questions: list[str] = []

    async def elicit(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        questions.append(params.message)
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def hear(message: Any) -> None:
        root = getattr(message, "root", None)
        if isinstance(root, types.TaskStatusNotification):
            statuses.append(root.params.status)

    async with (
        streamablehttp_client(url) as (read, write, _),
        ClientSession(read, write, elicitation_callback=elicit, message_handler=hear) as session,
    ):
        welcome = await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        plain = await session.call_tool("add", {"left": 1, "right": 2})
        tasks = session.experimental

        created = await tasks.call_tool_as_task("heavy", ttl=60_000)
        polled = [state.status async for state in tasks.poll_task(created.task.taskId)]
        result = await tasks.get_task_result(created.task.taskId, types.CallToolResult)

        asking = await tasks.call_tool_as_task("soon", {"name": "Ada"})
        answered = await tasks.get_task_result(asking.task.taskId, types.CallToolResult)

        parked = await tasks.call_tool_as_task("soon", {"name": "Grace"})
        later = [state.status async for state in tasks.poll_task(parked.task.taskId)]

        idle = await tasks.call_tool_as_task("tell", {"message": "x"})
        cancelled = await tasks.cancel_task(idle.task.taskId)
        try:
            await tasks.get_task_result(idle.task.taskId, types.CallToolResult)
            code = 0
        except McpError as error:
            code = error.error.code
        listed = await tasks.list_tasks()
        for _ in range(100):
            if heard := {"completed", "cancelled"} <= set(statuses):
                break
            await asyncio.sleep(0.05)
        made = [task.task.taskId for task in (idle, parked, asking, created)]

    return {
        "version": welcome.protocolVersion,
        "can_list": welcome.capabilities.tasks is not None and welcome.capabilities.tasks.list is not None,
        "support": tools["heavy"].execution.taskSupport if tools["heavy"].execution else None,
        "plain": plain.structuredContent,
        "polled": polled[-1],
        "result": [block.text for block in result.content if isinstance(block, types.TextContent)],
        "questions": questions,
        "answered": [block.text for block in answered.content if isinstance(block, types.TextContent)],
        "asked_on_the_sessions_stream": later[-1],
        "cancelled": [cancelled.status, code],
        "listed_newest_first": [task.taskId for task in listed.tasks] == made,
        "heard_of": heard,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
