"""`make demo`: tools called by an MCP client, with a cancellation, a killed worker and a full restart.

Each part prints what it does, does it, and checks the result; if a check fails, the demo ends with exit
status 1.
"""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from mcp_types import CallToolResult, ElicitRequest, ElicitRequestFormParams, ElicitResult
from rich.console import Console
from rich.table import Table

from tasks_service.cli.progress import ProgressBar
from tasks_service.cli.results import readable_text, save
from tasks_service.client.messages import DetailedTask, NewTask, TaskState
from tasks_service.client.service_client import Asked, ServiceClient, connect
from tasks_service.domain.errors import TasksServiceError

from .service import DATASET, DemoService, find_dataset, process_of

#: Seconds that the demo may take, that a cancelled tool may still run, that a lost task may wait.
WHOLE_SECONDS, CANCEL_SECONDS, RECOVERY_SECONDS = 120.0, 1.0, 15.0
#: The progress of the fourth task when its worker is killed.
KILL_AT = 0.3
#: The pictures: one to keep, one that would take very long, one that takes several seconds.
PICTURE = {"width": 480, "height": 360}
ENDLESS = {"width": 1024, "height": 1024, "max_iterations": 20_000}
LONG = {"width": 480, "height": 360, "palette": "ember"}
#: The arguments of the fifth task, and a person's answer to its question.
REPORT = {"path": DATASET, "delay_seconds": 3}
ANSWER = {"publish": True, "title": "The world's airports", "format": "markdown"}
#: The name of the question, and the entries of the journal at the end.
APPROVAL = "approval"
JOURNAL = ("step profile", "answer approval", "timer delay", "step write")
#: Lines of the report that are printed.
SHOWN_LINES = 8


class CheckFailed(TasksServiceError):
    """A check of the demo failed."""


@click.command()
@click.option(
    "--output",
    default=Path("demo-output"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the picture, the profile and the log go.",
)
def demo(output: Path) -> None:
    """Show the service at work: a profile, a picture, a cancellation, a crash, a question. Takes a minute."""
    output.mkdir(parents=True, exist_ok=True)
    log = output / "service.log"
    console = Console(highlight=False, soft_wrap=True)
    start = time.monotonic()
    try:
        console.print("[bold]Starting[/bold] Redis, a front end, two workers and beat ...")
        with DemoService(log) as service:
            service.wait_until_ready()
            console.print(f"Ready after {time.monotonic() - start:.1f} s: MCP at {service.mcp_url}")
            asyncio.run(DemoScenario(service, console, output).run())
            console.print("\n[bold]Stopping[/bold] everything ...")
        _check(not service.stack.is_ready(), "the service is still up")
    except TasksServiceError as error:
        raise CheckFailed(f"{error} The log is in {log}.") from error
    seconds = time.monotonic() - start
    console.print(f"Stopped. All of it took {seconds:.0f} s; {output} has the results and the log.")
    _check(seconds < WHOLE_SECONDS, f"it took more than {WHOLE_SECONDS:.0f} s")


class DemoScenario:
    """The five parts of the demo, in order."""

    def __init__(self, service: DemoService, console: Console, output: Path) -> None:
        self._service, self._console, self._output = service, console, output

    async def run(self) -> None:
        """Run all parts.

        Raises:
            CheckFailed: A check failed.
        """
        async with connect(self._service.mcp_url) as client:
            names = ", ".join(tool.name for tool in await client.tools())
            self._console.print(f"An MCP client is connected, over HTTP. The tools: {names}")
            await self._profile(client)
            await self._draw(client)
            await self._cancel(client)
            await self._kill(client)
        await self._ask()

    async def _profile(self, client: ServiceClient) -> None:
        self._title(1, "profile_csv", f"every column of {DATASET}, a public dataset of the world's airports")
        result = await self._call(client, "profile_csv", {"path": DATASET})
        profile = result.structured_content or {}
        (self._output / "airports-profile.json").write_text(readable_text(result) + "\n")
        with find_dataset().open(newline="", encoding="utf-8") as file:
            rows = sum(1 for _ in csv.reader(file)) - 1
        _check(profile.get("rows") == rows, f"the profile counts {profile.get('rows')} rows, not {rows}")
        self._console.print(_columns(profile))
        self._console.print(f"{rows:,} rows; counted again here, and the same.")

    async def _draw(self, client: ServiceClient) -> None:
        self._title(2, "render_fractal", "a picture, in pure Python, into a file")
        result = await self._call(client, "render_fractal", PICTURE)
        written = save(result, "fractal", self._output / "fractal.png")
        _check(len(written) == 1, "there is no picture in the result")
        _check(written[0].read_bytes().startswith(b"\x89PNG"), f"{written[0]} is not a PNG")
        self._console.print(f"Saved {written[0]} ({written[0].stat().st_size:,} bytes).")

    async def _cancel(self, client: ServiceClient) -> None:
        self._title(3, "render_fractal", "a picture that would take very long, cancelled half-way")
        task = await self._start(client, ENDLESS)
        await self._until(client, task, lambda state: state.progress is not None)
        node = self._service.worker_of(task.task_id)
        if node is None:
            raise CheckFailed("Nobody runs the task.")
        worker = process_of(node)
        self._console.print(f"It runs on {worker}. Cancelling ...")
        cancelled = time.monotonic()
        await client.cancel(task.task_id)
        state = await client.get(task.task_id)
        _check(state.status == "cancelled", f"after the cancellation the task is {state.status}")
        while not await asyncio.to_thread(self._service.is_idle, node):
            _check(time.monotonic() - cancelled < 10 * CANCEL_SECONDS, f"{worker} goes on drawing")
        seconds = time.monotonic() - cancelled
        _check(seconds < CANCEL_SECONDS, f"{worker} was idle only {seconds:.2f} s after the cancellation")
        self._console.print(f"Cancelled; {worker} was idle again {seconds:.2f} s later.")

    async def _kill(self, client: ServiceClient) -> None:
        self._title(4, "render_fractal", "its worker is killed (SIGKILL) in the middle")
        task = await self._start(client, LONG)
        await self._until(client, task, lambda state: _part(state) >= KILL_AT)
        killed = self._service.worker_of(task.task_id)
        if killed is None:
            raise CheckFailed("Nobody runs the task.")
        self._service.kill(killed)
        killed_at = time.monotonic()
        self._console.print(
            f"{process_of(killed)} was at {KILL_AT:.0%} and is dead now. Waiting for another ..."
        )
        new_worker = process_of(await self._new_worker(task.task_id, killed))
        seconds = time.monotonic() - killed_at
        _check(seconds < RECOVERY_SECONDS, f"it started again only after {seconds:.1f} s")
        self._console.print(f"{new_worker} took the task over {seconds:.1f} s after the kill.")
        result = await self._follow(client, task)
        run = self._service.record(task.task_id).task.claims
        _check(self._service.is_dead(killed), f"{killed} is still alive")
        _check(not result.is_error and run > 1, "the task was not run again")
        self._console.print(f"{new_worker} finished it, in run {run}: nothing is lost.")

    async def _ask(self) -> None:
        self._title(5, "publish_report", "it asks a person, and everything is stopped before the answer")
        async with connect(self._service.mcp_url, answer=_not_by_itself) as client:
            task = await self._begin(client, "publish_report", REPORT)
            await self._until(client, task, lambda state: state.status == "input_required")
            before = await client.get(task.task_id)
        question = _form(before)
        self._console.print(f"The task asks: [bold]{question.message}[/bold]")
        self._console.print(f"To fill in: {', '.join(question.requested_schema['properties'])}")
        self._console.print("Stopping the front end, the workers, beat and Redis ...")
        await asyncio.to_thread(self._service.stop)
        self._console.print("Nothing runs any more; the question is in a file. Starting everything again ...")
        start = time.monotonic()
        await asyncio.to_thread(self._service.start_again)
        self._console.print(f"Ready again after {time.monotonic() - start:.1f} s. A client comes back.")
        async with connect(self._service.mcp_url, answer=_not_by_itself) as client:
            await self._answer(client, await client.get(task.task_id), before)

    async def _answer(self, client: ServiceClient, task: DetailedTask, before: DetailedTask) -> None:
        _check(task.status == "input_required", f"after the restart the task is {task.status}")
        _check(task.input_requests == before.input_requests, "after the restart the question is another one")
        self._console.print(f"The same question is open. The answer: {ANSWER['title']!r}, publish: yes")
        await client.update(task.task_id, {APPROVAL: ElicitResult(action="accept", content=ANSWER)})
        state = await client.get(task.task_id)
        _check(not state.input_requests, "the answered question is still open")
        result = await self._follow(client, state)
        published = result.structured_content or {}
        _check(published.get("published") is True, f"the report was not published: {readable_text(result)}")
        report = self._service.report(published["file"])
        _check(report == published["report"], "the file is not the report of the result")
        _check(report.startswith(f"# {ANSWER['title']}"), "the report has another title")
        record = self._service.record(task.task_id)
        done = [f"{entry.kind} {entry.name}" for entry in record.journal]
        _check(tuple(done) == JOURNAL, f"the journal is {', '.join(done)}")
        (self._output / "airports-report.md").write_text(report, encoding="utf-8")
        for line in report.splitlines()[:SHOWN_LINES]:
            self._console.print(f"  {line}", markup=False)
        self._console.print(
            f"Published, after {record.task.claims} runs of the tool; done once each: {', '.join(done)}."
        )

    async def _new_worker(self, task_id: str, killed: str) -> str:
        deadline = time.monotonic() + 2 * RECOVERY_SECONDS
        while time.monotonic() < deadline:
            worker = self._service.worker_of(task_id)
            if worker is not None and worker != killed:
                return worker
            await asyncio.sleep(0.05)
        raise CheckFailed("No other worker took the task over.")

    async def _call(self, client: ServiceClient, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        start = time.monotonic()
        with ProgressBar(tool, self._console) as bar:
            result = await client.call(tool, arguments, bar.watch)
        _check(not result.is_error, f"{tool} failed: {readable_text(result)}")
        self._console.print(f"The result came after {time.monotonic() - start:.1f} s.")
        return result

    async def _start(self, client: ServiceClient, arguments: Mapping[str, Any]) -> NewTask:
        return await self._begin(client, "render_fractal", arguments)

    async def _begin(self, client: ServiceClient, tool: str, arguments: Mapping[str, Any]) -> NewTask:
        task = await client.start(tool, arguments)
        if not isinstance(task, NewTask):
            raise CheckFailed(f"The call was answered at once, not with a task: {readable_text(task)}")
        self._console.print(f"The call became the task {task.task_id}.")
        return task

    async def _until(self, client: ServiceClient, task: TaskState, reached: Any) -> None:
        with ProgressBar("render_fractal", self._console) as bar:
            while not reached(task):
                _check(not task.is_final, f"the task is {task.status} already")
                await asyncio.sleep(min(task.poll_seconds, 0.2))
                task = await client.get(task.task_id)
                bar.watch(task)

    async def _follow(self, client: ServiceClient, task: TaskState) -> CallToolResult:
        with ProgressBar("render_fractal", self._console) as bar:
            return await client.follow(task, bar.watch)

    def _title(self, number: int, tool: str, about: str) -> None:
        self._console.print(f"\n[bold cyan]{number}. {tool}[/bold cyan]: {about}")


async def _not_by_itself(asked: Asked) -> Mapping[str, ElicitResult]:
    """Make the client declare that it can be asked; the demo answers later, by `update`."""
    raise CheckFailed(f"{', '.join(asked.requests)}: asked of a client that does not wait for it")


def _form(state: DetailedTask) -> ElicitRequestFormParams:
    request = (state.input_requests or {}).get(APPROVAL)
    if isinstance(request, ElicitRequest) and isinstance(request.params, ElicitRequestFormParams):
        return request.params
    raise CheckFailed(f"The task asks no {APPROVAL!r}.")


def _part(state: TaskState) -> float:
    """The progress of a task, from 0 to 1."""
    progress = state.progress
    return progress.progress / progress.total if progress and progress.total else 0.0


def _columns(profile: Mapping[str, Any]) -> Table:
    table = Table("column", "type", "nulls", "distinct", "most frequent")
    for column in profile["columns"]:
        top = next(iter(column["top_values"]), None)
        table.add_row(
            column["name"],
            column["type"],
            f"{column['nulls']:,}",
            f"{'about ' if column['distinct_is_estimate'] else ''}{column['distinct']:,}",
            f"{top['value']} ({top['count']:,})" if top and top["count"] > 1 else "",
        )
    return table


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailed(f"A check failed: {otherwise}.")
