"""A service whose tools log in every way that Python and Celery have."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

from celery.utils.log import get_task_logger
from pydantic import BaseModel

from tasks_service import AsyncTaskContext, Cancelled, Declined, RetryPolicy, TaskContext, TaskService

service = TaskService("Logged")
app = service.celery

own, of_celery = logging.getLogger("acme.renders"), get_task_logger("acme.orders")


class Secret(BaseModel):
    secret: str


@service.tool()
def talk(ctx: TaskContext, secret: str) -> dict[str, str]:
    """Log in every way."""
    own.info("own words")
    of_celery.info("words for Celery's logger")
    print("printed words")
    ctx.info("words for the client")
    return {"secret": secret}


@service.tool()
async def talk_async(ctx: AsyncTaskContext, secret: str) -> dict[str, str]:
    """Log on the event loop, and in a task beside it."""
    own.info("own words")
    await ctx.info("words for the client")

    async def beside() -> None:
        own.info("words beside")

    await asyncio.create_task(beside())
    return {"secret": secret}


@service.tool(retry=RetryPolicy(first_delay=timedelta(milliseconds=10)), max_attempts=2)
def fail_once(marker: str) -> str:
    """Fail at the first attempt."""
    own.warning("an attempt begins\nand says so")
    if not Path(marker).exists():
        Path(marker).touch()
        raise RuntimeError("it did not work")
    return "it worked"


@service.tool()
def ask(ctx: TaskContext, secret: str) -> str:
    """Ask, and return what was answered."""
    ctx.step(f"step {secret}", str, secret)
    answer = ctx.elicit(f"What comes after {secret}?", Secret)
    return "nothing" if isinstance(answer, Declined | Cancelled) else answer.secret
