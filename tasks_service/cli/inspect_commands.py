"""`tasks-service list | inspect | cancel`: an operator's view of the store, across all owners."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
import pydantic_core
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..audit_log import audited, open_audit_log
from ..domain.decide import effective
from ..domain.errors import CorruptRecord, InvalidTransition, TaskNotFound
from ..domain.events import CancelByOperator
from ..domain.names import task_hash
from ..domain.task import NOT_RECORDED, Identity, JsonText, Phase, Slot, Task, TaskRecord
from ..observability.context import note_action, note_task, operator
from ..store.maintenance import MaintenanceStore
from .application import json_option, open_store, printable, settings_of
from .tables import age, print_table

#: Times from here on, in ms, have no date.
LATEST_MS = 253_402_300_800_000
#: Rows that `list` shows by default.
DEFAULT_ROWS = 50


@click.command("list")
@click.option(
    "--phase", type=click.Choice([phase.value for phase in Phase]), help="Only tasks in this phase."
)
@click.option("--tool", help="Only tasks of this tool.")
@click.option("--limit", default=DEFAULT_ROWS, show_default=True, type=click.IntRange(min=1), help="Rows.")
@json_option
@click.argument("task", nargs=-1)
def list_tasks(task: tuple[str, ...], phase: str | None, tool: str | None, limit: int, as_json: bool) -> None:
    """List tasks of all owners, newest first; or only those that are named (see `inspect`)."""
    with open_store(settings_of()) as store:
        now_ms = store.now_ms()
        tasks = [
            found
            for found in _tasks(store, task or store.task_names(), now_ms)
            if phase in (None, found.phase.value) and tool in (None, found.tool)
        ]
    tasks.sort(key=lambda found: found.created_ms, reverse=True)
    if as_json:
        click.echo(json.dumps([_summary(found) for found in tasks[:limit]]))
        return
    _print_table(tasks[:limit], now_ms)
    if len(tasks) > limit:
        click.echo(f"{len(tasks) - limit} more; see --limit.", err=True)


@click.command()
@click.argument("task")
@json_option
def inspect(task: str, as_json: bool) -> None:
    """Show everything that is stored of a task, with its history.

    TASK is its name, as logs, errors and Flower show it, with or without the `.<claim>` behind it; or its id.
    """
    settings = settings_of()
    open_audit_log(settings.audit_log)
    with open_store(settings) as store, audited("operator: inspect", operator()):
        note_task(task)
        record = store.inspect(task)
        record = replace(
            record,
            arguments=JsonText(printable(record.arguments)),
            result=None if record.result is None else JsonText(printable(record.result)),
        )
        problems = store.index_problems(task)
    if as_json:
        click.echo(pydantic_core.to_json({**dataclasses.asdict(record), "index_problems": problems}).decode())
        return
    _print_record(record, problems)


@click.command()
@click.argument("task")
@click.option("--reason", help="A sentence for the client, in place of one that names an operator.")
def cancel(task: str, reason: str | None) -> None:
    """Cancel a task, whoever owns it. TASK is its name or its id (see `inspect`).

    Its history says that an operator did so, and so does its status message, which the client reads.
    """
    order = CancelByOperator() if reason is None else CancelByOperator(reason=reason)
    settings = settings_of()
    open_audit_log(settings.audit_log)
    with open_store(settings) as store, audited("operator: cancel", operator()) as entry:
        note_action()
        note_task(task)
        try:
            store.apply_order(task, order)
        except InvalidTransition as error:
            entry.outcome = "failed"
            raise click.ClickException(f"Task {task} is {error.current} already.") from None
    click.echo(f"Task {task} is cancelled.")


def _tasks(store: MaintenanceStore, references: Iterable[str], now_ms: int) -> Iterator[Task]:
    for name in dict.fromkeys(map(task_hash, references)):
        try:
            task = effective(store.inspect(name).task, now_ms)
        except TaskNotFound:
            continue
        except CorruptRecord as error:
            click.echo(printable(f"Skipped: {error}"), err=True)
            continue
        if task is not None:
            yield task


def _print_table(tasks: list[Task], now_ms: int) -> None:
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("task", "tool", "phase", "age", "attempts"):
        table.add_column(name, no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for task in tasks:
        phase = f"{task.phase.value} (error)" if task.is_error else task.phase.value
        where = f"on {task.lease.worker}" if task.lease else ""
        details = " ".join(filter(None, (where, task.status_message)))
        since = age(now_ms - task.created_ms)
        table.add_row(task_hash(task.task_id), task.tool, phase, since, str(task.attempts), details)
    print_table(table)


def _summary(task: Task) -> dict[str, Any]:
    return {
        "task": task_hash(task.task_id),
        "task_id": task.task_id,
        "owner": task.owner,
        "tool": task.tool,
        "phase": task.phase.value,
        "claims": task.claims,
        "attempts": task.attempts,
        "created": _timestamp(task.created_ms),
        "updated": _timestamp(task.updated_ms),
        "parent": task.parent or None,
        "worker": task.lease.worker if task.lease else None,
        "waits_for_slot": task.slot is Slot.WAITING,
        "waits": task.waits and task.waits.value,
        "status_message": task.status_message,
    }


def _print_record(record: TaskRecord, problems: list[str]) -> None:
    task = record.task
    fields = Table("field", "value", show_header=False)
    fields.add_row("task", task_hash(task.task_id))
    for field in dataclasses.fields(task):
        value = getattr(task, field.name)
        if value not in (None, "", 0, {}, ()):
            fields.add_row(field.name, _timestamp(value) if _is_timestamp(field.name) else str(value))
    if record.caller != NOT_RECORDED:
        fields.add_row("caller", _caller(record.caller))
    fields.add_row("arguments", record.arguments)
    if record.result is not None:
        fields.add_row("result", record.result)
    if (exception := record.exception) is not None:
        said = f"{exception.type}: {exception.message}"
        fields.add_row("exception", Text(f"{said}\n\n{exception.traceback}" if exception.traceback else said))
        fields.add_row("exception of claim", str(exception.claim))
    print_table(fields)
    history = Table("revision", "from", "to", "who", "when", title="history")
    for entry in record.log:
        source = entry.source.value if entry.source else ""
        history.add_row(str(entry.revision), source, entry.target.value, entry.actor, _timestamp(entry.at_ms))
    print_table(history)
    for problem in problems:
        Console().print(f"[red]index:[/red] {problem}", soft_wrap=True)


def _caller(caller: Identity) -> str:
    """Who has called, in a line."""
    through = f" through {caller.client_id}" if caller.client_id else ""
    return f"{caller.subject or '-'}{through} ({caller.issuer})"


def _is_timestamp(name: str) -> bool:
    return name in {
        "created_ms",
        "updated_ms",
        "due_ms",
        "deadline_ms",
        "expires_ms",
        "dispatched_ms",
        "return_by_ms",
        "resumable_until_ms",
    }


def _timestamp(at_ms: int) -> str:
    if not 0 <= at_ms < LATEST_MS:
        return str(at_ms)  # no time of ours: a damaged record is shown as it is
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
