"""`tasks-service repair`: find and fix inconsistencies in the stored tasks."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from ..settings import Settings
from .application import json_option, open_store

#: Exit status if something was found and not fixed.
LEFT = 1


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what is wrong.")
@click.option(
    "--quarantine",
    is_flag=True,
    help="Move records that cannot be read aside; they are kept for 30 days and the task is gone.",
)
@json_option
def repair(dry_run: bool, quarantine: bool, as_json: bool) -> None:
    """Fix records and indexes that disagree; safe to run at any time.

    The exit status is 1 if anything is left: in a dry run, or because only a person can decide.
    """
    fixed = left = 0
    with open_store(Settings()) as store:
        for found in store.repair(dry_run=dry_run, quarantine=quarantine):
            fixed, left = fixed + found.fixed, left + (not found.fixed)
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(found)))
            else:
                click.echo(f"{'fixed' if found.fixed else 'found '}  {found.task or '-'}  {found.what}")
    if not as_json:
        click.echo(f"{fixed} fixed, {left} left." if fixed or left else "Nothing is wrong.", err=True)
    if left:
        sys.exit(LEFT)
