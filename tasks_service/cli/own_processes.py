"""The processes that a command runs on one machine, and what it says of tools that they leave to others."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ..domain.errors import ConfigurationError
from ..local.procfile import DEFAULT_PROCFILE, DEFAULT_SCHEDULER, ProcessSpec, parse_procfile
from ..service import TaskService
from ..worker.queues import TakenQueues, taken_queues
from .application import celery_path, load_service

OWN_SCHEDULER = "tasks_service.worker.maintenance.scheduler:MaintenanceScheduler"
"""Beat's scheduler beside a shop's own beat."""

NODE_NAME = "tasks-service@%h"
"""The worker's name beside a shop's own worker on the same machine, which is `celery@...`."""


def own_processes(app: str, queues: tuple[str, ...]) -> tuple[list[ProcessSpec], list[str]]:
    """The usual processes, and sentences about tools that their worker leaves to another.

    Args:
        app: Where the service is.
        queues: What to take, as the operator said; empty: nothing was said.

    Raises:
        ConfigurationError: There is no such service, or its app cannot take these queues.
    """
    service, celery_app = load_service(app), celery_path(app)
    taken = taken_queues(service.celery, service.tools, owns_app=service.owns_app, wanted=queues)
    _refuse_undeclared(service, taken)
    options = "" if taken.queues is None else f" --queues {shlex.quote(','.join(taken.queues))}"
    if not service.owns_app:
        options += f" --hostname {NODE_NAME}"
    listed = DEFAULT_PROCFILE.substitute(
        app=app,
        celery_app=celery_app,
        worker_options=options,
        scheduler=DEFAULT_SCHEDULER if service.owns_app else OWN_SCHEDULER,
    )
    specs = [spec for spec in parse_procfile(listed) if taken.takes_maintenance or spec.name != "beat"]
    return specs, list(_sentences(taken, celery_app))


def _sentences(taken: TakenQueues, celery_app: str) -> Iterator[str]:
    for queue, tools in taken.waiting.items():
        every = ",".join([*(taken.queues or ()), queue])
        yield (
            f"{', '.join(tools)}: calls wait for a worker that takes the queue {queue!r}, as of "
            f"`celery -A {celery_app} worker -Q {queue}`. This one does not take it, because the Celery app "
            "has other tasks there, or because --queues does not name it. To change that, give the tool a "
            f"queue of its own with queue=, or say --queues {every}."
        )


def _refuse_undeclared(service: TaskService, taken: TakenQueues) -> None:
    app = service.celery
    if taken.queues is None or app.conf.task_create_missing_queues:
        return
    declared = set(app.amqp.queues)
    if missing := [name for name in taken.queues if name not in declared]:
        raise ConfigurationError(
            f"The Celery app has task_create_missing_queues = False and no queue {missing[0]!r} in its "
            "task_queues, so that no worker can take it. Add "
            f"{', '.join(f'Queue({name!r})' for name in missing)} to task_queues, or name other queues with "
            "--queues."
        )
