"""A shop's Celery app with one task of its own and a tool of each kind; runs in every environment."""

from __future__ import annotations

import os
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

from celery import Celery
from pydantic import BaseModel, Field

from tasks_service import AsyncTaskContext, Form, TaskContext, TaskService, ToolError

app = Celery("shop", broker=os.environ["TASKS_REDIS_URL"])


@app.task(name="shop.resize", bind=True)
def resize(self: Any, width: int, height: int = 2) -> dict[str, int]:
    """Resize a picture."""
    self.update_state(state="PROGRESS", meta={"current": 1, "total": 1})
    return {"area": width * height}


service = TaskService("Shop", celery=app)
service.expose("shop.resize", description="Resize a picture.", queue="shop")


class Order(BaseModel):
    article: str
    count: Annotated[int, Field(gt=0)] = 1
    wanted: date | None = None


class Receipt(BaseModel):
    total: int
    lines: list[str]


class Approval(BaseModel):
    agreed: bool = Field(description="Shall it be sent?")


@service.tool(queue="shop")
def order(orders: list[Order]) -> Receipt:
    """Order articles."""
    lines = [f"{one.count} {one.article} {one.wanted or 'any day'}" for one in orders]
    return Receipt(total=sum(one.count for one in orders), lines=lines)


@service.tool(queue="shop")
def send(parcel: str, ctx: TaskContext) -> str:
    """Send a parcel, if somebody agrees."""
    answer = ctx.elicit(f"Send {parcel}?", Approval, within=timedelta(minutes=5))
    return f"sent {parcel}" if isinstance(answer, Approval) and answer.agreed else "kept"


@service.tool(queue="shop")
async def nap(seconds: float, ctx: AsyncTaskContext) -> str:
    """Sleep without a worker."""
    await ctx.progress(0, 1, "before")
    await ctx.sleep(timedelta(seconds=seconds))
    return "slept"


@service.tool(queue="shop")
def bake(runs: str, ctx: TaskContext) -> list[str]:
    """Do each of two steps once, over an interruption."""

    def step(name: str) -> str:
        with Path(runs).open("a") as file:
            file.write(f"{name}\n")
        return name

    done = [ctx.step("knead", step, "knead")]
    ctx.sleep(timedelta(seconds=0.5))
    return [*done, ctx.step("bake", step, "bake")]


@service.tool(queue="shop")
def refuse() -> str:
    """Fail with a sentence."""
    raise ToolError("The oven is cold.")


@service.tool(queue="shop", max_attempts=3)
def crash(ctx: TaskContext) -> int:
    """Die with the process, once."""
    if ctx.attempt == 1:
        os.kill(os.getpid(), 9)
    return ctx.attempt


@service.tool(queue="shop", timeout=timedelta(minutes=2))
def watch(told: str, ctx: TaskContext) -> str:
    """Run until a file is there; say by progress that it runs."""
    while not Path(told).exists():
        ctx.progress(ctx.claims, message=f"claim {ctx.claims}")
        time.sleep(0.05)
    return f"claim {ctx.claims}"


@service.tool(queue="shop", ask={"urgent": Form("Is it urgent?", Approval)})
def hurry(parcel: str, ctx: TaskContext) -> str:
    """Ask before there is a task."""
    answer = ctx.answers["urgent"]
    return f"{parcel}: {answer.agreed if isinstance(answer, Approval) else 'nobody says'}"
