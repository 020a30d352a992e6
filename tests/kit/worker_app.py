"""The service that the worker tests run: one tool for each behaviour."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from celery.exceptions import WorkerShutdown
from pydantic import BaseModel

from tasks_service import AsyncTaskContext, ProtocolError, RetryPolicy, TaskContext, TaskService, ToolError

service = TaskService("Worker tests")
app = service.celery
app.conf.worker_soft_shutdown_timeout = 0.5

SECRET = "s3cr3t-in-an-exception"
SOON = RetryPolicy(first_delay=timedelta(milliseconds=10))


class Point(BaseModel):
    x: int
    y: int


@service.tool()
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


@service.tool()
def count_runs(path: str) -> int:
    """Append a line to a file."""
    with Path(path).open("a") as runs:
        runs.write("run\n")
    return 1


@service.tool()
def run_until(runs: str, told: str) -> str:
    """Append a line to a file, and run until another one is there."""
    count_runs(runs)
    while not Path(told).exists():
        time.sleep(0.01)
    return "was told"


@service.tool()
def identity(ctx: TaskContext) -> dict[str, Any]:
    """Say who runs."""
    return {"task": ctx.task_id, "owner": ctx.owner, "tool": ctx.tool, "run": ctx.claims, "pid": os.getpid()}


@service.tool()
def refuse() -> str:
    """Fail with the author's sentence."""
    raise ToolError("The printer is out of paper.")


@service.tool()
def protest() -> str:
    """Fail with a JSON-RPC error."""
    raise ProtocolError(4050, "Not on a Sunday.", {"day": "Sunday"})


@service.tool()
def look_refused() -> str:
    """Fail with what looks like a refusal of a front end."""
    raise ProtocolError(-32602, "Over my own quota.", {"setting": "mine", "retryAfterMs": 1})


@service.tool()
def crash() -> str:
    """Fail by accident."""
    raise RuntimeError(SECRET)


@service.tool(retry=SOON, max_attempts=3)
def flaky(ctx: TaskContext, succeed_at: int) -> int:
    """Fail until the given attempt."""
    if ctx.attempt < succeed_at:
        raise ConnectionError(SECRET)
    return ctx.attempt


@service.tool()
def exit_by_itself() -> str:
    """Call sys.exit, as scripts do."""
    sys.exit(3)


class OwnEnd(BaseException):
    """An author's own, no `Exception`."""


ENDS: dict[str, BaseException] = {
    "KeyboardInterrupt": KeyboardInterrupt(),
    "SystemExit": SystemExit(3),
    "GeneratorExit": GeneratorExit(),
    "CancelledError": asyncio.CancelledError(),
    "WorkerShutdown": WorkerShutdown(0),
    "OwnEnd": OwnEnd(),
}
"""What a tool may raise that is no `Exception`, by name."""


@service.tool()
def end_with(name: str) -> str:
    """Raise what is no exception."""
    raise ENDS[name]


@service.tool()
async def end_branch_with(name: str) -> str:
    """Raise it in a task of its own on the event loop."""

    async def branch() -> str:
        raise ENDS[name]

    return await asyncio.create_task(branch())


@service.tool()
def say_odd_things(ctx: TaskContext) -> str:
    """Report progress in numbers and sentences that JSON does not have."""
    ctx.progress(Decimal("1.5"), 10, ValueError("half \ud800 a pair"))
    return "said"


@service.tool()
def refuse_oddly() -> str:
    """Fail with a sentence that cannot be written."""
    raise ToolError("half \ud800 a pair")


@service.tool()
def misbehave(directory: str) -> str:
    """Leave the process another than it was."""
    os.chdir(directory)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    signal.alarm(3)
    return "misbehaved"


@service.tool()
def describe_process() -> dict[str, Any]:
    """Say what the process is like."""
    return {
        "pid": os.getpid(),
        "directory": str(Path.cwd()),
        "handlers": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
    }


@service.tool()
def too_large() -> str:
    """Return two MiB."""
    return "x" * (2 * 1024 * 1024)


@service.tool()
def not_json() -> list[float]:
    """Return what JSON does not have."""
    return [float("nan")]


@service.tool()
def wrong_shape() -> Point:
    """Violate the output schema."""
    return {"x": "far", "y": 1}  # type: ignore[return-value]


@service.tool()
def report(ctx: TaskContext, steps: int) -> int:
    """Report progress and variables."""
    ctx.write_variables({"phase": "begun", "scratch": 1})
    for _ in ctx.track(range(steps), "stepping"):
        pass
    ctx.write_variables({"phase": "done", "scratch": None})
    assert dict(ctx.variables) == {"phase": "done"}
    return steps


@service.tool()
def loop(ctx: TaskContext, seconds: float = 60, again: float = 60) -> str:
    """Run for long, the first time and again, and look at the context."""
    until = time.monotonic() + (seconds if ctx.claims == 1 else again)
    ctx.progress(0, message=f"pid {os.getpid()}")
    while time.monotonic() < until:
        ctx.check()
        time.sleep(0.02)
    return "ran to its end"


@service.tool()
def unresponsive(seconds: float = 60) -> str:
    """Run for long, and listen to nobody."""
    try:
        time.sleep(seconds)
    except Exception:
        return "an author's `except Exception` swallowed it"
    return "ran to its end"


@service.tool(timeout=timedelta(seconds=1))
def slow(ctx: TaskContext) -> str:
    """Run longer than it may."""
    while True:
        ctx.check()
        time.sleep(0.02)


@service.tool(timeout=timedelta(seconds=1))
def slow_and_deaf() -> str:
    """Run longer than it may, and listen to nobody."""
    time.sleep(60)
    return "ran to its end"


@service.tool()
async def wait_async(seconds: float, ctx: AsyncTaskContext) -> str:
    """Wait on the event loop."""
    await ctx.progress(0, message="waiting")
    await asyncio.sleep(seconds)
    return "waited"


@service.tool(max_attempts=3)
def die_once(ctx: TaskContext) -> int:
    """Kill the process on the first attempt."""
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt


@service.tool(max_attempts=2)
def poison() -> int:
    """Kill the process on every attempt."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@service.tool()
def speak(ctx: TaskContext) -> str:
    """Report progress and log messages, then end at once."""
    for done in range(3):
        ctx.progress(done, 2)
        ctx.info({"done": done}, logger="speaker")
    return "spoken"


@service.tool()
async def speak_async(ctx: AsyncTaskContext) -> str:
    """Do the same on the event loop."""
    for done in range(3):
        await ctx.progress(done, 2)
        await ctx.info({"done": done}, logger="speaker")
    return "spoken"


@service.tool(queue="elsewhere")
def far_away() -> str:
    """Wait in a queue that few workers take."""
    return "arrived"
