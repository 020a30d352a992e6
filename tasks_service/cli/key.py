"""`tasks-service key`: draw an API key."""

from __future__ import annotations

import click

from ..crypto.key_file import MOMENT, NAME, line_of, new_key, parse_moment
from ..domain.errors import ConfigurationError


@click.command()
@click.argument("name")
@click.option("--until", help=f"When the key ends: {MOMENT}.")
def key(name: str, until: str | None) -> None:
    """Print a new API key for NAME, and its line for TASKS_API_KEYS_FILE.

    The key is for the caller, and is not stored; the line has only its hash.
    """
    if NAME.fullmatch(name) is None:
        raise ConfigurationError("NAME: expected 1 to 128 characters, without spaces, colons and commas")
    if until is not None and parse_moment(until) is None:
        raise ConfigurationError(f"--until: expected {MOMENT}")
    drawn = new_key()
    click.echo(f"key:   {drawn}")
    click.echo(f"line:  {line_of(name, drawn, until)}")
