"""Tools that are started from Python: by a program, and by each other."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel

from tasks_service import AsyncTaskContext, ProtocolError, Settings, TaskContext, TaskService, ToolError


class Picture(BaseModel):
    """What is drawn of a scene."""

    scene: str
    frames: int


def build(settings: Settings | None = None) -> TaskService:
    """The service, for a program that knows where Redis is, or for a worker, which is told."""
    service = TaskService("Pictures", settings=settings)

    @service.tool()
    def render(scene: str, frames: int = 2) -> Picture:
        """Render a scene."""
        return Picture(scene=scene, frames=frames)

    @service.tool()
    def gated(gate: str, ctx: TaskContext) -> str:
        """Run until a file is there."""
        while not Path(gate).exists():
            ctx.check()
            time.sleep(0.01)
        return "open"

    @service.tool()
    def refused() -> str:
        """Say that it cannot be done."""
        raise ToolError("There is no such scene.")

    @service.tool()
    def rejected() -> str:
        """Fail with a code."""
        raise ProtocolError(4001, "no more", {"left": 0})

    @service.tool()
    def album(scenes: list[str], runs: str) -> list[str]:
        """Render scenes by another tool, and wait for them."""
        with Path(runs).open("a") as lines:
            lines.write("run\n")
        handles = [service.submit("render", scene=scene) for scene in scenes]
        return [handle.result().scene for handle in handles]

    service.tool(name="doomed_album", queue="doomed")(album)

    @service.tool()
    async def concurrent_album(scenes: list[str], ctx: AsyncTaskContext) -> list[str]:
        """Render scenes by another tool, and wait for all of them at once."""

        async def drawn(scene: str) -> str:
            handle = await service.asubmit("render", scene=scene, step=f"render {scene}")
            picture: Picture = await handle.aresult()
            return picture.scene

        await ctx.sleep(0.1)
        return await asyncio.gather(*map(drawn, scenes))

    @service.tool()
    def impatient(gate: str) -> list[str]:
        """Wait for a tool that takes too long."""
        handle = service.submit("gated", gate=gate)
        try:
            handle.result(timeout=0.4)
        except TimeoutError as error:
            return [handle.task_id, str(error)]
        return []

    @service.tool()
    def parent(gate: str) -> str:
        """Wait for a tool for as long as it takes."""
        said: str = service.submit("gated", gate=gate).result()
        return said

    return service


service = build()
app = service.celery
app.conf.worker_soft_shutdown_timeout = 0.5
