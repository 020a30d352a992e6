"""What it costs a worker with very many tools to be known."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.store.redis import RedisTaskStore
from tasks_service.store.registered_tools import registered_tools
from tasks_service.worker.announcer import LOOK_SECONDS, Announcements, Description
from tests.unit.test_announcer import celery_worker

TOOLS = 1_000
MINUTE = 60
"""Seconds, which pass on a clock of the test's own."""


def many_tools() -> ToolRegistry:
    def draw(
        scene: str, frames: int = 24, size: tuple[int, int] = (640, 480), title: str | None = None
    ) -> str:
        """Draw a scene, and say where it is."""
        return f"{scene}{frames}{size}{title}"

    tools, one = ToolRegistry(), build_tool(draw)
    for number in range(TOOLS):
        tools.add(replace(one, definition=replace(one.definition, name=f"draw_{number}")))
    return tools


def test_a_thousand_tools_cost_a_worker_and_a_reader_next_to_nothing(
    redis_url: str, measured: Callable[[str, str], None]
) -> None:
    now = 0.0
    worker = celery_worker("tasks")
    description = Description(worker, service="shop", version="1.2", instructions="", tools=many_tools())
    announcements = Announcements(lambda: now)
    with closing(RedisTaskStore(redis_url)) as store:
        begun = time.process_time()
        announcements.keep(store.registry, description())
        started = time.process_time() - begun
        begun = time.process_time()
        while now < MINUTE:
            now += LOOK_SECONDS
            announcements.keep(store.registry, description())
        minute = time.process_time() - begun
        begun = time.process_time()
        view = store.registry.read("shop")
        read = time.process_time() - begun
        begun = time.process_time()
        for _ in range(MINUTE):
            assert store.registry.read("shop", view).mark == view.mark
        polls = time.process_time() - begun
    assert len(registered_tools(view)) == TOOLS
    known = f"announced in {started * 1000:.0f} ms of CPU, {minute / MINUTE:.3%} of a core to stay so"
    looked = f"read in {read * 1000:.0f} ms, {polls / MINUTE:.3%} of a core to look each second"
    measured("11", f"{TOOLS} tools: {known}; {looked}")
    assert minute < MINUTE / 100
    assert polls < MINUTE / 100
