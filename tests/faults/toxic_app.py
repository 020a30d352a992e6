"""A service of tools that do harm: to their process, to its patience, or to whoever believes them."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tasks_service import TaskContext, TaskService
from tasks_service.authoring.tool_options import ToolOptions
from tasks_service.domain.errors import AttemptEnded
from tasks_service.worker.maintenance.schedule import BEAT_SCHEDULE

service = TaskService("Toxic")
app = service.celery
app.conf.worker_soft_shutdown_timeout = 0.5
app.conf.beat_schedule = {
    name: {**entry, "schedule": 0.2, "options": {**entry["options"], "expires": None}}
    for name, entry in BEAT_SCHEDULE.items()
}
if visibility := os.environ.get("TOXIC_VISIBILITY"):
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "visibility_timeout": float(visibility),
        "unacked_restore_interval": 1,
    }

LESS_THAN_SKEW = timedelta(seconds=100)
BRIEF: ToolOptions = {
    "ttl": LESS_THAN_SKEW,
    "retention": LESS_THAN_SKEW,
    "queue_timeout": LESS_THAN_SKEW,
    "timeout": LESS_THAN_SKEW,
}
"""Times that a clock which is two minutes wrong would find to be over."""

ATTEMPTS = 3
FOREVER = 10**9


def write_line(path: str, **what: Any) -> None:
    """Append a line to a file; lines of several processes do not mix."""
    with Path(path).open("a") as file:
        file.write(json.dumps(what) + "\n")


@service.tool(**BRIEF)
def good(path: str, ctx: TaskContext, seconds: float = 0.05) -> int:
    """Work for a moment, and write down that it was done."""
    time.sleep(seconds)
    write_line(path, task=ctx.task_id, run=ctx.claims)
    return ctx.claims


@service.tool(**BRIEF, lease=timedelta(seconds=5))
def nap(path: str, ctx: TaskContext) -> int:
    """Sleep durably, with a step before and after."""
    ctx.step("before", write_line, path, task=ctx.task_id, step="before")
    ctx.sleep(1.2)
    ctx.step("after", write_line, path, task=ctx.task_id, step="after")
    return ctx.claims


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    ctypes.string_at(0)


def _overflow_the_stack() -> None:
    sys.setrecursionlimit(FOREVER)

    def sink(value: object) -> object:
        return max([value], key=sink)  # through C, so that each level takes from the stack of the thread

    sink(0)


def _exhaust_memory() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, before[1]))
    try:
        bytearray(1 << 40)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


POISONS: dict[str, Callable[[], None]] = {
    "kill": _kill,
    "exit": lambda: sys.exit(3),
    "exit at once": lambda: os._exit(3),
    "abort": os.abort,
    "segfault": _segfault,
    "stack": _overflow_the_stack,
    "memory": _exhaust_memory,
}


@service.tool(max_attempts=ATTEMPTS)
def poison(kind: str, path: str, ctx: TaskContext) -> str:
    """Harm the process, each time that it runs."""
    write_line(path, task=ctx.task_id, run=ctx.claims)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    POISONS[kind]()
    return "survived"


@service.tool(lease=timedelta(seconds=1))
def haunted(diary: str, gate: str, ctx: TaskContext) -> int:
    """Run until told; write down when and how the context says that the task is another's."""
    write_line(diary, pid=os.getpid(), run=ctx.claims)
    if ctx.claims > 1:
        ctx.step(f"begun by {ctx.claims}", os.getpid)
    try:
        while not Path(gate).exists() or ctx.claims == 1:
            ctx.check()
            time.sleep(0.001)
    except AttemptEnded as lost:
        at = time.monotonic()
        try:
            ctx.step("of a zombie", os.getpid)
        except AttemptEnded as refused:
            kinds = {"learned": type(lost).__name__, "step": type(refused).__name__}
            write_line(diary, pid=os.getpid(), at=at, **kinds)
        raise
    return ctx.claims


@service.tool(**BRIEF)
def long(path: str, ctx: TaskContext, seconds: float = 5.0) -> int:
    """Last for some renewals of the lease, and look at the context."""
    write_line(path, task=ctx.task_id, run=ctx.claims)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ctx.check()
        time.sleep(0.02)
    return ctx.claims


service.tool(name="soon_missed", **BRIEF, lease=timedelta(seconds=2))(long)


@service.tool(lease=timedelta(seconds=1), max_attempts=ATTEMPTS)
def deafening(path: str, ctx: TaskContext) -> int:
    """Hold the interpreter's lock for longer than the lease, the first time."""
    if ctx.claims == 1:
        ctypes.PyDLL(None).usleep(4_000_000)
    write_line(path, task=ctx.task_id, run=ctx.claims)
    return ctx.claims
