"""`tasks-service repair`: find and fix inconsistencies in the stored tasks, and in what the broker holds."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator

import click

from ..audit_log import audited, open_audit_log
from ..observability.context import operator
from ..settings import Settings
from ..store.maintenance import Repair
from ..store.redis import RedisTaskStore
from .application import (
    json_option,
    load_connected_service,
    open_store,
    optional_app_option,
    printable,
    redis_url_of,
    settings_of,
)

#: Exit status if something was found and not fixed.
LEFT = 1


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what is wrong.")
@click.option(
    "--quarantine",
    is_flag=True,
    help="Move records that cannot be read aside; they are kept for 30 days and the task is gone.",
)
@optional_app_option(
    "Without it, messages are judged without knowing the tools, in this service's own queues."
)
@json_option
def repair(dry_run: bool, quarantine: bool, app: str | None, as_json: bool) -> None:
    """Fix records and indexes that disagree, and drop messages that nobody can run.

    Safe to run at any time.

    Exit status 1 if anything is left: in a dry run, or because only a person can decide.
    """
    fixed = left = 0
    settings = settings_of()
    open_audit_log(settings.audit_log)
    action = "operator: look for repairs" if dry_run else "operator: repair"
    with open_store(settings) as store, audited(action, operator()):
        for found in _found(store, settings, app, dry_run=dry_run, quarantine=quarantine):
            fixed, left = fixed + found.fixed, left + (not found.fixed)
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(found)))
            else:
                line = f"{'fixed' if found.fixed else 'found '}  {found.task or '-'}  {found.what}"
                click.echo(printable(line))
    if not as_json:
        click.echo(f"{fixed} fixed, {left} left." if fixed or left else "Nothing is wrong.", err=True)
    if left:
        sys.exit(LEFT)


def _found(
    store: RedisTaskStore, settings: Settings, app: str | None, *, dry_run: bool, quarantine: bool
) -> Iterator[Repair]:
    # Not at the top: all of this needs Celery, and nothing else that a command does.
    from ..broker.app import MAINTENANCE_QUEUE, create_app
    from ..broker.incoming import Sender
    from ..broker.message_repair import MessageRepair
    from ..broker.signature import message_signer
    from ..worker.incoming import MessageInspector

    yield from store.repair(dry_run=dry_run, quarantine=quarantine)
    known = [MAINTENANCE_QUEUE, *store.queues()]
    if app is None:
        url = redis_url_of(settings)
        own = create_app(
            "tasks_service", broker_url=settings.broker_url or url, key_prefix=settings.key_prefix
        )
        # Which names are those of tools only the service knows; its queues are where it keeps messages.
        messages = MessageRepair(own, lambda _: Sender.OTHER, lambda _: True, dry_run=dry_run)
    else:
        service = load_connected_service(app, settings)
        known += [tool.definition.queue for tool in service.tools.values()]
        judge = MessageInspector(service.celery, service.tools, lambda *_: None, owns_app=service.owns_app)
        messages = MessageRepair(
            service.celery,
            judge.sender_of,
            judge.is_alone,
            dry_run=dry_run,
            signer=message_signer(settings),
        )
    yield from messages.through(known)
