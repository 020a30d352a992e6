"""A service whose tools raise whatever there is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tasks_service import AsyncTaskContext, TaskContext, TaskService
from tests.kit.raised import RAISED

service = TaskService("Raising")
app = service.celery


@service.tool()
def raise_at_once(name: str) -> str:
    """Raise in a function."""
    raise RAISED[name]()


@service.tool()
async def raise_async(name: str) -> str:
    """Raise in a coroutine."""
    await asyncio.sleep(0)
    raise RAISED[name]()


@service.tool()
def raise_while_read(name: str) -> Iterator[int]:
    """Raise between two items."""
    yield 1
    raise RAISED[name]()


@service.tool()
def raise_in_step(name: str, ctx: TaskContext) -> str:
    """Raise in a step."""

    def step() -> str:
        raise RAISED[name]()

    return ctx.step("s", step)


@service.tool()
async def raise_in_branch(name: str, ctx: AsyncTaskContext) -> str:
    """Raise in a task of its own on the event loop."""

    async def branch() -> str:
        raise RAISED[name]()

    await ctx.progress(0)
    return await asyncio.create_task(branch())
