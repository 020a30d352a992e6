"""Which queues of a Celery app are the tools' own, and which are the shop's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery import Celery

from ..authoring.tool import ToolRegistry
from ..broker.app import MAINTENANCE_QUEUE
from .celery_tasks import ToolTask
from .maintenance.schedule import CELERY_TASKS


def queues_of_shop(app: Celery) -> frozenset[str]:
    """The queues that an app has without its tools: where its configuration and its own tasks send messages.

    Args:
        app: A shop's, which is finalized by this.
    """
    conf = app.conf
    router = app.amqp.Router(queues=app.amqp.Queues(conf.task_queues))
    named = {str(conf.task_default_queue), *(str(queue.name) for queue in conf.task_queues or ())}
    if isinstance(conf.task_routes, dict):
        named |= {
            str(route.get("queue") if isinstance(route, Mapping) else route)
            for route in conf.task_routes.values()
        }
    for name, task in app.tasks.items():
        if not isinstance(task, ToolTask) and name not in CELERY_TASKS.values():
            named.update(_route(router, name, task))
    return frozenset(named)


def _route(router: Any, name: str, task: Any) -> Iterable[str]:
    queue = getattr(task, "queue", None)
    if queue:
        yield str(queue)
    with suppress(Exception):  # a route may be a function of the shop's, and want arguments
        yield str(router.route({}, name)["queue"].name)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenQueues:
    """What a worker takes that serves the tools of a service on one machine.

    Attributes:
        queues: The queues, for `-Q`; None: all of the app, which is the service's own.
        waiting: Tools whose messages it leaves to another worker, by their queues.
    """

    queues: tuple[str, ...] | None
    waiting: Mapping[str, tuple[str, ...]]

    @property
    def takes_maintenance(self) -> bool:
        """Whether what beat asks for is taken."""
        return self.queues is None or MAINTENANCE_QUEUE in self.queues


def taken_queues(
    app: Celery, tools: ToolRegistry, *, owns_app: bool, wanted: Iterable[str] = ()
) -> TakenQueues:
    """What a worker on this machine takes: the tools' own queues and `maintenance`, nothing of the shop's.

    Args:
        app: The service's app.
        tools: Its tools.
        owns_app: Whether the app is the service's own.
        wanted: What to take instead; empty: nothing was said.
    """
    queues: tuple[str, ...] = tuple(dict.fromkeys(wanted))
    if not queues:
        if owns_app:
            return TakenQueues(queues=None, waiting={})
        shop = queues_of_shop(app)
        ours = [*(tool.definition.queue for tool in tools.values()), MAINTENANCE_QUEUE]
        queues = tuple(name for name in dict.fromkeys(ours) if name not in shop)
    waiting: dict[str, tuple[str, ...]] = {}
    for name, tool in tools.items():
        if (queue := tool.definition.queue) not in queues:
            waiting[queue] = (*waiting.get(queue, ()), name)
    return TakenQueues(queues=queues, waiting=waiting)
