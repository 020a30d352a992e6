"""Which services can share a store, as far as their workers have announced themselves.

Tasks of all services are in one store, and each worker sweeps for all. So a message that one of them sends
again must reach the workers of its task, and no worker may take a message for a tool of its own that is
another service's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from ..domain.tools import ToolDefinition
from .registry import NOT_TOLD, Delivery, RegistryView


def conflicts(
    service: str,
    former_names: Collection[str],
    tools: Mapping[str, ToolDefinition],
    delivery: Delivery,
    others: Iterable[RegistryView],
) -> Iterator[str]:
    """Why a service cannot share the store with workers that run there now, a sentence for each.

    Args:
        service: Its name.
        former_names: Names that it had before.
        tools: Its tools.
        delivery: Where its workers take messages from; `NOT_TOLD`: not looked at.
        others: What the registry knows of every service.
    """
    own = {(tool.queue, name) for name, tool in tools.items()}
    for view in others:
        is_same = service in view.names or view.service in former_names
        if is_same or not view.workers:
            continue
        elsewhere = {worker.delivery for worker in view.workers} - {NOT_TOLD, delivery}
        if elsewhere and delivery != NOT_TOLD:
            yield (
                f"Workers of the service {view.service!r} use the same store and take their messages from "
                f"{_told(sorted(elsewhere)[0])}, and those of {service!r} from {_told(delivery)}: what "
                f"either sends again would not reach the other. {_WAY_OUT}."
            )
        used = {worker.tools for worker in view.workers} & view.sets.keys()
        theirs = {(tool.queue, name) for digest in used for name, tool in view.sets[digest].tools.items()}
        for queue, tool in sorted(own & theirs)[:1]:
            yield (
                f"Workers of the service {view.service!r} use the same store, and have a tool {tool!r} on "
                f"the queue {queue!r} as well: each would take messages of the other. {_WAY_OUT}, or the "
                f"tools another name= or queue=. If {view.service!r} is a former name of this service, say "
                f"so: TaskService(..., former_names=[{view.service!r}])."
            )


_WAY_OUT = "Give this service a store of its own, by TASKS_KEY_PREFIX or another TASKS_REDIS_URL"


def _told(delivery: Delivery) -> str:
    if delivery.transport == "redis":
        return f"database {delivery.virtual_host} of a Redis, under the prefix {delivery.key_prefix!r}"
    return f"{delivery.transport}, virtual host {delivery.virtual_host!r}"
