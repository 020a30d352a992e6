"""What an operator of Celery's own command is told of a mistake: one sentence, as by every command of ours.

`celery -A module worker` imports the module, and shows whatever is raised there with its traceback: right for
what an author got wrong, and no help for a variable that an operator got wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from ..domain.errors import ConfigurationError

UNUSABLE = 2
"""The exit status of a command that could not be tried at all, as click has it."""


@contextmanager
def operators_mistakes() -> Iterator[None]:
    """End Celery's command with the sentence of a `ConfigurationError`, where that command loads an app.

    Raises:
        ConfigurationError: As it was, in any other process.
    """
    try:
        yield
    except ConfigurationError as error:
        if _is_celerys_command():
            refuse_to_start(error)
        raise


def refuse_to_start(error: ConfigurationError) -> NoReturn:
    """End this process with a sentence on stderr.

    Raises:
        SystemExit: With status `UNUSABLE`.
    """
    click.echo(f"tasks-service: {error}", err=True)
    raise SystemExit(UNUSABLE)


def _is_celerys_command() -> bool:
    """Whether this process runs Celery's command, which now looks for its app."""
    module = sys.modules.get("celery.bin.celery")
    context = click.get_current_context(silent=True)
    return module is not None and context is not None and context.find_root().command is module.celery
