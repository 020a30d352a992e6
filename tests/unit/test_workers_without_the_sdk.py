"""A worker, and a shop's module that declares everything there is, where neither SDK nor web server is."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tasks_service.extras import SERVER

ROOT = Path(__file__).parents[2]

WITHOUT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(f"{{name}} is not for workers", name=name)
        return None

sys.meta_path.insert(0, Refuse())
"""

SHOP = '''
import asyncio
from datetime import date, timedelta
from enum import Enum
from typing import Annotated

from celery import Celery
from pydantic import BaseModel, Field

from tasks_service import (
    Annotations, AsyncTaskContext, Audio, Completion, Declined, EmbeddedResource, Form, Header, Image, Link,
    Message, ModelReply, RequestContext, ResourceLink, RetryPolicy, Root, Settings, TaskContext, TaskService,
    Text, ToolAnnotations, ToolError, ToolResult,
)
from tasks_service.testing import ToolRun

shop = Celery("shop", broker="memory://")


@shop.task(name="shop.resize", bind=True)
def resize(self, width: int) -> int:
    self.update_state(state="WORKING", meta={"current": 1, "total": 2})
    return width // 2


service = TaskService("Shop", celery=shop, settings=Settings(redis_url=None))


class Palette(Enum):
    WARM = "warm"


class Answer(BaseModel):
    publish: bool


class Report(BaseModel):
    palette: Palette
    day: date


@service.tool(
    title="Draw",
    annotations=ToolAnnotations(read_only_hint=True),
    ask={"style": Form("Which style?", Answer), "page": Link("Look here", "https://a.example")},
    retry=RetryPolicy(on=(ConnectionError,)),
    timeout=timedelta(minutes=1),
)
def draw(region: Annotated[str, Header("Region")], ctx: TaskContext) -> Report:
    """Draw."""
    return Report(palette=Palette.WARM, day=date(2026, 7, 28))


@service.tool()
def publish(scene: str, ctx: TaskContext, size: Annotated[int, Field(ge=1)] = 1) -> ToolResult:
    """Publish."""
    ctx.progress(1, 2, "half-way")
    uploaded = ctx.step("upload", lambda: [scene])
    answer = ctx.elicit("Publish it?", Answer, name="approval", default=Declined())
    reply = ctx.sample("A slogan?", max_tokens=10)
    (root,) = ctx.list_roots()
    return ToolResult(
        [
            Text(reply.text, annotations=Annotations(audience=["user"])),
            Image(data=b"png"), Audio(data=b"wav"),
            ResourceLink("a://b", "b"), EmbeddedResource("a://c", b"c"),
        ],
        structured_content={"uploaded": uploaded, "publish": answer.publish, "root": root.uri},
    )


@service.tool()
async def wait(ctx: AsyncTaskContext) -> list[int]:
    """Wait."""
    await ctx.sleep(timedelta(days=1))
    return [n for n in await asyncio.gather(ctx.step("one", one), ctx.step("two", one))]


async def one() -> int:
    return 1


@service.tool(input_schema={"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]})
def refuse(x: int) -> str:
    """Refuse."""
    raise ToolError("No.")


service.expose("shop.resize")


@service.resource("acme://scenes")
def scenes() -> list[str]:
    return ["hall"]


@service.resource("acme://scenes/{scene}{?frame}", annotations=Annotations(priority=1))
def scene(scene: str, context: RequestContext, frame: int = 1) -> bytes:
    return scene.encode()


@service.prompt(ask={"mood": Form("Mood?", Answer)})
def improvise(scene: str, context: RequestContext) -> list:
    return ["Play", Message("What?", role="assistant"), Image(data=b"png")]


@service.completion("improvise", "scene")
@service.completion("acme://scenes/{scene}{?frame}", "scene")
def names(typed: str) -> Completion:
    return Completion([typed], total=3)
'''

RUNS = """

assert set(service.tools) == {"draw", "publish", "wait", "refuse", "resize"}
assert {"draw", "publish", "wait", "refuse", "resize"} <= set(shop.tasks)
assert service.dispatcher and service.celery is shop

run = ToolRun(service, "publish", {"scene": "hall", "size": 2})
run.accept("approval", publish=True)
run.answer("sample", ModelReply([Text("Go!")], "some-model"))
run.answer("roots", [Root("file:///home")])
assert run.failure is None, run.failure
assert run.result == {"uploaded": ["hall"], "publish": True, "root": "file:///home"}, run.result
assert ToolRun(service, "wait").result == [1, 1]
assert ToolRun(service, "resize", {"width": 8}).result == 4
refused = ToolRun(service, "refuse", {"x": 1})
assert (refused.is_error, refused.text) == (True, "No.")
"""

PROCESSES = """
import celery.bin.worker, celery.apps.worker, celery.concurrency.prefork, celery.concurrency.thread
import tasks_service.worker.engine, tasks_service.worker.maintenance.beat_tasks
import tasks_service.cli.doctor, tasks_service.cli.inspect_commands, tasks_service.cli.repair

from tasks_service.domain.errors import ConfigurationError

try:
    service.asgi()
except ConfigurationError as error:
    assert "pip install 'tasks-service[server]'" in str(error), error
else:
    raise AssertionError("there is no front end here")
assert not {refused} & {{name.partition(".")[0] for name in sys.modules}}
print("done")
"""


def test_a_worker_and_a_shops_module_need_neither_the_sdk_nor_a_web_server() -> None:
    refused = repr(set(SERVER | {"hiredis"}))
    program = WITHOUT.format(refused=refused) + SHOP + RUNS + PROCESSES.format(refused=refused)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n"


def test_where_the_sdk_is_installed_a_worker_does_not_import_it_either() -> None:
    # Others may import some of what a front end needs: Celery imports cryptography where it is there.
    ours = {"httpx2", "mcp", "mcp_types", "starlette", "uvicorn"}
    shown = f"import sys\nprint({ours} & {{name.partition('.')[0] for name in sys.modules}})"
    ended = subprocess.run(
        [sys.executable, "-c", f"{SHOP}{RUNS}{shown}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "set()\n"


def test_the_contract_on_imports_covers_every_room_that_workers_have() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = [
        contract
        for contract in project["tool"]["importlinter"]["contracts"]
        if "uvicorn" in contract.get("forbidden_modules", ())
    ]
    rooms = {path.stem for path in (ROOT / "tasks_service").iterdir() if not path.name.startswith("_")}
    with_the_sdk = {"frontend", "client", "local", "cli", "py"}
    assert {f"tasks_service.{room}" for room in rooms - with_the_sdk} <= set(contract["source_modules"])
