"""The official Python client 1.30 with its tasks of 2025-11-25; it cannot be installed beside 2.x."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from acts import READ_SECONDS, go_through, texts, url
from mcp import ClientSession, types
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError

CANCELLED_ALREADY = -32602
statuses: set[str] = set()
questions: list[str] = []
tasks: dict[str, str] = {}


async def elicit(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    questions.append(params.message)
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def hear(message: Any) -> None:
    root = getattr(message, "root", None)
    if isinstance(root, types.TaskStatusNotification):
        statuses.add(root.params.status)


@asynccontextmanager
async def connected() -> AsyncIterator[ClientSession]:
    async with (
        streamablehttp_client(url()) as (read, write, _),
        ClientSession(
            read,
            write,
            elicitation_callback=elicit,
            message_handler=hear,
            read_timeout_seconds=timedelta(seconds=READ_SECONDS),
        ) as session,
    ):
        session.welcome = await session.initialize()
        yield session


async def task(session: ClientSession, act: str, tool: str) -> str:
    """Call a tool as a task, unless this act has one already; its id."""
    if act not in tasks:
        tasks[act] = (await session.experimental.call_tool_as_task(tool, ttl=600_000)).task.taskId
    return tasks[act]


async def connect(session: ClientSession) -> Any:
    tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    capability = session.welcome.capabilities.tasks
    return {
        "version": session.welcome.protocolVersion,
        "can_list": capability is not None and capability.list is not None,
        "support": tools["count"].execution.taskSupport,
    }


async def call(session: ClientSession) -> Any:
    return (await session.call_tool("add", {"left": 1, "right": 2})).structuredContent


async def progress(session: ClientSession) -> Any:
    seen: list[float] = []

    async def note(current: float, total: float | None, message: str | None) -> None:
        seen.append(current)

    result = await session.call_tool("slow", {}, progress_callback=note)
    return {"result": texts(result), "some": len(seen) > 0, "rising": seen == sorted(set(seen))}


async def poll(session: ClientSession) -> Any:
    task_id = await task(session, "poll", "count")
    states = [state.status async for state in session.experimental.poll_task(task_id)]
    result = await session.experimental.get_task_result(task_id, types.CallToolResult)
    return {"last": states[-1], "result": texts(result)}


async def question(session: ClientSession) -> Any:
    questions.clear()
    task_id = await task(session, "question", "ask")
    result = await session.experimental.get_task_result(task_id, types.CallToolResult)
    return {"asked": questions[-1:], "result": texts(result)}


async def question_on_the_session_stream(session: ClientSession) -> Any:
    async with asyncio.timeout(READ_SECONDS):
        tasks.pop("stream", None)  # Another session would not be asked what this one was.
        task_id = await task(session, "stream", "ask")
        states = [state.status async for state in session.experimental.poll_task(task_id)]
    result = await session.experimental.get_task_result(task_id, types.CallToolResult)
    return {"last": states[-1], "result": texts(result)}


async def cancel(session: ClientSession) -> Any:
    task_id = await task(session, "cancel", "endless")
    try:
        await session.experimental.cancel_task(task_id)
    except McpError as error:
        if error.error.code != CANCELLED_ALREADY:
            raise
    status = (await session.experimental.get_task(task_id)).status
    try:
        await session.experimental.get_task_result(task_id, types.CallToolResult)
    except McpError as error:
        if error.error.code > 0:
            raise  # The client's own: a timeout, a lost connection.
        return {"status": status, "code": error.error.code}
    return {"status": status, "code": None}


async def list_tasks(session: ClientSession) -> Any:
    mine = [tasks[act] for act in ("cancel", "stream", "question", "poll")]
    listed, cursor = [], None
    while True:
        page = await session.experimental.list_tasks(cursor)
        listed += [one.taskId for one in page.tasks]
        if (cursor := page.nextCursor) is None:
            break
    return {"newest_first": [task_id for task_id in listed if task_id in mine] == mine}


async def notifications(session: ClientSession) -> Any:
    for _ in range(200):
        if {"completed", "cancelled"} <= statuses:
            break
        await asyncio.sleep(0.05)
    return sorted(statuses & {"completed", "cancelled"})


asyncio.run(
    go_through(
        connected,
        [
            *(connect, call, progress, poll, question, question_on_the_session_stream),
            *(cancel, list_tasks, notifications),
        ],
    )
)
