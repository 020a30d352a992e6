"""A service whose tools take a secret, and whose exceptions tell it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from tasks_service import (
    AsyncTaskContext,
    Cancelled,
    Declined,
    ProtocolError,
    RetryPolicy,
    TaskContext,
    TaskService,
    ToolError,
)

service = TaskService("Vault")
app = service.celery


class Combination(BaseModel):
    combination: str


@service.tool(retry=RetryPolicy(first_delay=timedelta(milliseconds=10)), max_attempts=2)
def open_vault(combination: str) -> str:
    """Open the vault."""
    raise ValueError(f"cannot open vault with {combination}")


@service.tool()
def knock(combination: str) -> str:
    """Knock."""
    raise ToolError(f"nobody opens to {combination}")


@service.tool()
def refuse(combination: str) -> str:
    """Refuse."""
    raise ProtocolError(4001, f"not {combination}", {"tried": combination})


@service.tool()
def unlock(ctx: TaskContext, combination: str) -> dict[str, Any]:
    """Ask for another combination, and return both."""
    ctx.write_variables({combination: combination})
    ctx.progress(1, 2, message=f"turning {combination}")
    first = ctx.step(f"turn {combination}", str, combination)
    answer = ctx.elicit(f"What comes after {combination}?", Combination)
    if isinstance(answer, Declined | Cancelled):
        raise ToolError("nothing comes after it")
    return {"opened": [first, answer.combination]}


@service.tool()
async def drop(ctx: AsyncTaskContext, combination: str) -> object:
    """Return what is no result."""
    await ctx.log("info", f"dropped {combination}")
    return {combination: object()}


@service.prompt()
def recall(combination: str) -> str:
    """Fail in the front end."""
    raise ValueError(f"nobody recalls {combination}")
