"""`tasks-service workers`: the workers that run now, as they announce themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table

from ..store.registry import RegistryView, WorkerAnnouncement
from .application import json_option, open_store, settings_of
from .tables import age, print_table


@click.command()
@json_option
def workers(as_json: bool) -> None:
    """List the workers that run, with their releases, queues and tools."""
    with open_store(settings_of()) as store:
        now_ms = store.now_ms()
        views = [store.registry.read(service) for service in store.registry.services()]
    if as_json:
        click.echo(json.dumps([_summary(view, worker) for view in views for worker in view.workers]))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("worker", "service", "release", "pool", "slots", "tools", "age", "queues"):
        table.add_column(name, no_wrap=name != "queues")
    for view in views:
        for worker in view.workers:
            table.add_row(
                worker.node,
                worker.service,
                worker.version,
                worker.pool,
                str(worker.slots),
                str(len(_tools(view, worker))),
                age(now_ms - worker.since_ms),
                ", ".join(sorted(worker.queues)),
            )
    if table.row_count:
        print_table(table)
    else:
        click.echo("No worker runs.", err=True)


def _summary(view: RegistryView, worker: WorkerAnnouncement) -> dict[str, Any]:
    return {
        "worker": worker.node,
        "service": worker.service,
        "release": worker.version,
        "library": worker.library_version,
        "pool": worker.pool,
        "slots": worker.slots,
        "since": _timestamp(worker.since_ms),
        "queues": sorted(worker.queues),
        "tools": _tools(view, worker),
    }


def _tools(view: RegistryView, worker: WorkerAnnouncement) -> list[str]:
    return sorted(view.sets[worker.tools].tools) if worker.tools in view.sets else []


def _timestamp(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
