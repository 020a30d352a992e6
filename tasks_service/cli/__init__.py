"""The command `tasks-service`."""

from __future__ import annotations

import sys

import click
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..client.service_client import CannotConnect
from ..domain.errors import ConfigurationError, TasksServiceError
from .back_end import back_end
from .call import call
from .doctor import doctor
from .inspect_commands import cancel, inspect, list_tasks
from .repair import repair
from .serve import serve
from .stdio import stdio
from .up import up

#: Exit statuses: the command failed; it could not be tried at all.
FAILED, UNUSABLE = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tasks-service")
def commands() -> None:
    """Run MCP tools as durable tasks on Celery and Redis.

    Settings are TASKS_* variables; without TASKS_REDIS_URL a private Redis is used.
    """


for command in (up, serve, stdio, back_end, call, list_tasks, inspect, cancel, doctor, repair):
    commands.add_command(command)


def main() -> None:
    """Run a command; an error becomes one sentence on stderr and an exit status."""
    try:
        commands(prog_name="tasks-service")
    except (ConfigurationError, CannotConnect) as error:
        _fail(str(error), UNUSABLE)
    except ValidationError as error:
        _fail("\n".join(_setting_problem(problem) for problem in error.errors()), UNUSABLE)
    except TasksServiceError as error:
        _fail(str(error), FAILED)


def _setting_problem(problem: ErrorDetails) -> str:
    name = "_".join(["TASKS", *(str(part).upper() for part in problem["loc"])])
    message = problem["msg"].removeprefix("Value error, ")
    return message if name in message else f"{name}: {message}"


def _fail(message: str, status: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)
