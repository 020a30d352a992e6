"""`python -m workers.demo`: run the demo; what does not hold becomes one sentence and exit status 1."""

import sys

import click

from tasks_service.domain.errors import TasksServiceError

from .scenario import demo

try:
    demo(prog_name="make demo")
except TasksServiceError as error:
    click.echo(f"Error: {error}", err=True)
    sys.exit(1)
