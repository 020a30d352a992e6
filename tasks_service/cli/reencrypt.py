"""`tasks-service reencrypt`: encrypt anew what is under an older key, or was never encrypted."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter

import click

from ..domain.errors import ConfigurationError
from ..store.maintenance import Reencrypted
from .application import json_option, open_store, printable, settings_of

#: Exit status if something is left.
LEFT = 1


@click.command()
@click.option("--dry-run", is_flag=True, help="Only count.")
@json_option
def reencrypt(dry_run: bool, as_json: bool) -> None:
    """Encrypt under the first key what is under another one, or is not encrypted.

    Safe to run at any time. An hour after nothing is left, the older keys can be taken out of
    TASKS_ENCRYPTION_KEYS. With TASKS_ENCRYPTION=prepare it decrypts instead, to give encryption up.

    Exit status 1 if anything is left.
    """
    settings = settings_of()
    if not settings.envelope.key_names:
        raise ConfigurationError(
            "There are no keys. Set TASKS_ENCRYPTION_KEYS, or TASKS_ENCRYPTION_KEYS_FILE, as the other "
            'processes have it (docs/guide-operators.md, "Encrypting what is stored").'
        )
    under: Counter[str] = Counter()
    problems = 0
    with open_store(settings) as store:
        for found in store.reencrypt(dry_run=dry_run):
            problems += bool(found.problem)
            under.update(found.keys)
            _tell(found, as_json=as_json)
    if not as_json:
        done = "would be encrypted anew" if dry_run else "encrypted anew"
        for name, number in sorted(under.items()):
            where = f"under the key {name}" if name else "not encrypted"
            click.echo(f"{number} records, {where}: {done}.")
        if problems:
            click.echo(f"{problems} records cannot be encrypted anew.")
        if not under and not problems:
            click.echo("Every record is as it should be: older keys are no longer needed for any.")
    if problems or (dry_run and under):
        sys.exit(LEFT)


def _tell(found: Reencrypted, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "keys": sorted(found.keys)}))
    elif found.problem:
        click.echo(printable(f"{found.task}  {found.problem}"))
