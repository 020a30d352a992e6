"""FastMCP's client with its tasks package: it follows tasks by itself, or by a handle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from acts import READ_SECONDS, go_through, texts, url
from fastmcp import Client
from fastmcp_tasks import ToolTask, call_tool_task

questions: list[str] = []
handles: dict[str, ToolTask] = {}


async def elicit(message: str, response_type: Any, params: Any, context: Any) -> Any:
    questions.append(message)
    return {"name": "Ada"}


@asynccontextmanager
async def connected() -> AsyncIterator[Client[Any]]:
    async with Client(url(), elicitation_handler=elicit, timeout=READ_SECONDS) as one:
        yield one


async def task(one: Client[Any], act: str, tool: str) -> ToolTask:
    """Call a tool that becomes a task, unless this act has one already; its handle on this connection."""
    if act not in handles:
        handles[act] = await call_tool_task(one, tool)
    return ToolTask(one, tool, handles[act].create_result)


async def connect(one: Client[Any]) -> Any:
    return {
        "version": one.session.protocol_version,
        "found": "count" in [tool.name for tool in await one.list_tools()],
    }


async def call(one: Client[Any]) -> Any:
    return (await one.call_tool("add", {"left": 1, "right": 2})).structured_content


async def resolved(one: Client[Any]) -> Any:
    return texts(await one.call_tool("count", {"upto": 10}))


async def poll(one: Client[Any]) -> Any:
    handle = await task(one, "poll", "count")
    last = await handle.wait(timeout=READ_SECONDS)
    return {"last": last.status, "result": texts(await handle.result())}


async def question(one: Client[Any]) -> Any:
    questions.clear()
    result = await one.call_tool("ask")
    return {"asked": questions[-1:], "result": texts(result)}


async def cancel(one: Client[Any]) -> Any:
    handle = await task(one, "cancel", "endless")
    await handle.cancel()
    return (await handle.wait(timeout=READ_SECONDS)).status


asyncio.run(go_through(connected, [connect, call, resolved, poll, question, cancel]))
