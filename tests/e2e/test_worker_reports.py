"""What tools say, as real workers of every pool publish it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.events import Create
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.domain.reports import LogLevel, LogMessage, Report
from tasks_service.domain.task import JsonText, Progress
from tasks_service.store.changes import Change, Reported
from tasks_service.store.redis import AsyncRedisTaskStore
from tests.kit.servers import RedisServer
from tests.kit.waiting import PATIENCE
from tests.kit.workers import OWNER, Client, worker_node


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def worker(module_redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[CeleryTestWorker]:
    node = worker_node(module_redis.url, pool=request.param, name=request.param)
    assert node.ready(), node.logs()
    yield node
    node.teardown()


async def heard_until_the_end(client: Client, url: str, tool_name: str) -> tuple[list[Report], bool]:
    """What is said before the task's last change; and whether anything came after it."""
    store = AsyncRedisTaskStore(url, deadline=PATIENCE)
    tool = client.service.tools[tool_name]
    event = Create(
        task_id=new_task_id(OWNER),
        owner=OWNER,
        tool=tool.name,
        queue=tool.definition.queue,
        arguments=tool.check_arguments({}),
        policy=tool.definition.policy,
    )
    store.subscribe_reports(event.task_id)
    reports: list[Report] = []
    late = False
    try:
        changes = store.changes()
        assert await anext(changes) is None
        await asyncio.to_thread(client.store.create, event)
        async with asyncio.timeout(20):
            async for message in changes:
                if isinstance(message, Reported):
                    reports.extend(message.reports)
                elif isinstance(message, Change) and message == (task_hash(event.task_id), 2):
                    break
        try:
            async with asyncio.timeout(0.5):
                while not isinstance(await anext(changes), Reported):
                    """Others' changes."""
                late = True
        except TimeoutError:
            """As it should be."""
    finally:
        await store.aclose()
    return reports, late


@pytest.mark.parametrize("tool", ["speak", "speak_async"])
def test_everything_a_tool_says_arrives_in_order_and_before_its_end(
    worker: CeleryTestWorker, client: Client, module_redis: RedisServer, tool: str
) -> None:
    reports, late = asyncio.run(heard_until_the_end(client, module_redis.url, tool))

    said = [LogMessage(LogLevel.INFO, JsonText(f'{{"done":{done}}}'), "speaker") for done in range(3)]
    assert [report for report in reports if isinstance(report, LogMessage)] == said
    assert [report for report in reports if isinstance(report, Progress)][-1] == Progress(current=2, total=2)
    assert not late


def test_what_a_tool_says_is_in_the_workers_log_too(worker: CeleryTestWorker, client: Client) -> None:
    client.run("speak")

    worker.wait_for_log('{"done":2}', timeout=60)
