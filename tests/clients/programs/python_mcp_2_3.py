"""The official Python client 2.3, with an extension that polls tasks and answers them, as hosts write it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from acts import READ_SECONDS, go_through, texts, url
from mcp.client.client import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientSession
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, Request, RequestParams, Result
from pydantic import ConfigDict, Field

PAUSE = 0.1


class TaskHandle(Result):
    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = Field(default="task", alias="resultType")
    task_id: str = Field(alias="taskId")


class TaskState(Result):
    model_config = ConfigDict(extra="allow")
    status: str
    input_requests: dict[str, Any] = Field(default_factory=dict, alias="inputRequests")
    result: dict[str, Any] | None = None


class TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")


class AnswerParams(TaskParams):
    input_responses: dict[str, Any] = Field(alias="inputResponses")


class GetTask(Request[TaskParams, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams
    name_param = "taskId"


class CancelTask(Request[TaskParams, Literal["tasks/cancel"]]):
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams
    name_param = "taskId"


class UpdateTask(Request[AnswerParams, Literal["tasks/update"]]):
    method: Literal["tasks/update"] = "tasks/update"
    params: AnswerParams
    name_param = "taskId"


class Tasks(ClientExtension):
    identifier = "io.modelcontextprotocol/tasks"

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=TaskHandle, resolve=self.resolve)]

    async def resolve(self, handle: TaskHandle, context: ClaimContext) -> CallToolResult:
        return CallToolResult.model_validate((await follow(context.session, handle.task_id)).result)


tasks: dict[str, str] = {}
questions: list[str] = []


async def state(session: ClientSession, task_id: str) -> TaskState:
    return await session.send_request(GetTask(params=TaskParams(taskId=task_id)), TaskState)


async def follow(session: ClientSession, task_id: str) -> TaskState:
    """Poll a task to its end, and answer what it asks."""
    while (now := await state(session, task_id)).status not in ("completed", "failed", "cancelled"):
        if now.input_requests:
            questions.extend(one["params"]["message"] for one in now.input_requests.values())
            answers = {key: {"action": "accept", "content": {"name": "Ada"}} for key in now.input_requests}
            answer = AnswerParams(taskId=task_id, inputResponses=answers)
            await session.send_request(UpdateTask(params=answer), Result)
        await asyncio.sleep(PAUSE)
    return now


async def task(session: ClientSession, act: str, tool: str) -> str:
    """Call a tool that becomes a task, unless this act has one already; its id."""
    if act not in tasks:
        handle = await session.call_tool(tool, {}, allow_claimed=True)
        assert isinstance(handle, TaskHandle), handle
        tasks[act] = handle.task_id
    return tasks[act]


async def elicit(_: Any, params: ElicitRequestParams) -> ElicitResult:
    questions.append(params.message)
    return ElicitResult(action="accept", content={"name": "Ada"})


def client(*extensions: ClientExtension) -> Client:
    return Client(
        url(), extensions=extensions, elicitation_callback=elicit, read_timeout_seconds=READ_SECONDS
    )


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    async with client(Tasks()) as one:
        yield one


async def connect(one: Client) -> Any:
    tools = [tool.name for tool in (await one.list_tools()).tools]
    return {"version": one.protocol_version, "found": "count" in tools}


async def call(one: Client) -> Any:
    return (await one.call_tool("add", {"left": 1, "right": 2})).structured_content


async def progress(_: Client) -> Any:
    seen: list[float] = []

    async def note(current: float, total: float | None, message: str | None) -> None:
        seen.append(current)

    async with client() as plain:
        result = await plain.call_tool("slow", {}, progress_callback=note)
    return {"result": texts(result), "some": len(seen) > 0, "rising": seen == sorted(set(seen))}


async def resolved(one: Client) -> Any:
    return texts(await one.call_tool("count", {"upto": 10}))


async def poll(one: Client) -> Any:
    last = await follow(one.session, await task(one.session, "poll", "count"))
    return {"last": last.status, "result": texts(CallToolResult.model_validate(last.result))}


async def question(one: Client) -> Any:
    questions.clear()
    result = await one.call_tool("ask")
    return {"asked": questions[-1:], "result": texts(result)}


async def question_without_a_task(_: Client) -> Any:
    questions.clear()
    async with client() as plain:
        result = await plain.call_tool("ask")
    return {"asked": questions[-1:], "result": texts(result)}


async def cancel(one: Client) -> Any:
    task_id = await task(one.session, "cancel", "endless")
    await one.session.send_request(CancelTask(params=TaskParams(taskId=task_id)), Result)
    return (await follow(one.session, task_id)).status


asyncio.run(
    go_through(
        connected, [connect, call, progress, resolved, poll, question, question_without_a_task, cancel]
    )
)
