"""The command `tasks-service`.

A subcommand's module is imported when it runs, so that each needs only the packages and the time that are its
own: `list` starts without Celery, and `doctor` runs where no front end is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

import click
from pydantic_core import ValidationError

from ..crypto.core_dumps import forbid_core_dumps
from ..domain.errors import ConfigurationError, TasksServiceError
from ..extras import front_end_packages

#: Exit statuses: the command failed; it could not be tried at all.
FAILED, UNUSABLE = 1, 2


class Command(NamedTuple):
    """A subcommand that is not imported yet.

    Attributes:
        place: `module:attribute`, in this package.
        help: The first sentence of its help; empty: it is not listed.
    """

    place: str
    help: str = ""

    def load(self) -> click.Command:
        """Import it."""
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(import_module(f".{module}", __name__), attribute)
        return command


COMMANDS: Mapping[str, Command] = {
    "up": Command("up:up", "Run everything on this machine: Redis, front end, worker, beat, Flower."),
    "serve": Command("serve:serve", "Serve MCP over HTTP; workers and beat run elsewhere."),
    "stdio": Command("stdio:stdio", "Serve MCP on stdin and stdout, for a desktop host."),
    "back-end": Command("back_end:back_end"),
    "back-end-worker": Command("back_end:back_end_worker"),
    "call": Command("call:call", "Call TOOL and wait, with a progress bar; Ctrl-C cancels the task."),
    "list": Command("inspect_commands:list_tasks", "List tasks of all owners, newest first."),
    "inspect": Command("inspect_commands:inspect", "Show everything that is stored of a task."),
    "workers": Command(
        "workers:workers", "List the workers that run, with their releases, queues and tools."
    ),
    "cancel": Command("inspect_commands:cancel", "Cancel a task, whoever owns it."),
    "key": Command("key:key", "Print a new API key for NAME, and its line for TASKS_API_KEYS_FILE."),
    "doctor": Command("doctor:doctor", "Examine Redis, broker, workers, beat, front end and Flower."),
    "repair": Command(
        "repair:repair", "Fix records and indexes that disagree, and drop messages that nobody can run."
    ),
    "reencrypt": Command(
        "reencrypt:reencrypt", "Encrypt under the first key what is under another one, or is not encrypted."
    ),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            ConfigurationError: It needs packages that are not installed.
        """
        if (command := COMMANDS.get(cmd_name)) is None:
            return None
        with front_end_packages(f"`tasks-service {cmd_name}`"):
            return command.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items() if command.help])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tasks-service")
def commands() -> None:
    """Run MCP tools as durable tasks on Celery and Redis.

    Settings are TASKS_* variables; without TASKS_REDIS_URL a private Redis is used.
    """


def main() -> None:
    """Run a command; an error becomes one sentence on stderr and an exit status."""
    forbid_core_dumps()
    try:
        commands(prog_name="tasks-service")
    except ConfigurationError as error:
        _fail(str(error), UNUSABLE)
    except ValidationError as error:
        from ..settings import refusal_of_settings  # not at the top: `--help` needs no settings

        _fail(refusal_of_settings(error), UNUSABLE)
    except TasksServiceError as error:
        _fail(str(error), FAILED)


def _fail(message: str, status: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)
