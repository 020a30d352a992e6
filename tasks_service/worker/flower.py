"""Flower as a process of a service runs it: it answers under its own names only, and gives no orders in vain.

A page of somebody else's can make a browser ask this machine under a name of its own (DNS rebinding), and
Flower answers whatever the name, without a login. And where its Redis user may not give orders to workers,
Flower would try again every few seconds.

`celery flower` makes its own application; what is changed here is which class it makes it of.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import NoPermissionError

from ..addresses.web import LOOPBACK_HOSTS, Hosts

logger = logging.getLogger(__name__)

MISDIRECTED = 421

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - it is what a bound address is compared with
"""Addresses that are those of every interface, and a name of none."""


def guard_flower(allowed: Iterable[str], adopt: Callable[[], None]) -> None:
    """Guard the Flower that this process is about to run; nothing happens in any other process.

    Args:
        allowed: Host headers to accept besides the bound address and this machine's own names.
        adopt: Called once Flower has set up its log.
    """
    command: Any = sys.modules.get("flower.command")
    if command is not None and not hasattr(command.Flower, "tasks_service_hosts"):
        command.Flower = _guarded(command.Flower, tuple(allowed), adopt)


def _guarded(flower: type[Any], allowed: Sequence[str], adopt: Callable[[], None]) -> type[Any]:
    from tornado.web import ErrorHandler  # not at the top: only Flower needs it

    class GuardedFlower(flower):  # type: ignore[misc]
        """Flower, for requests to the hosts that are served."""

        tasks_service_hosts: Hosts

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            adopt()
            address = str(self.options.address or "").partition("%")[0]
            bound = () if address in _EVERYWHERE else (f"[{address}]" if ":" in address else address,)
            self.tasks_service_hosts = Hosts((*LOOPBACK_HOSTS, *bound, *allowed))
            control = self.capp.control
            control.broadcast = _permitted(control.broadcast)

        def find_handler(self, request: Any, **options: Any) -> Any:
            """What answers a request; of a foreign host, a refusal."""
            named = request.headers.get_list("Host")
            if self.options.unix_socket or all(host in self.tasks_service_hosts for host in named):
                return super().find_handler(request, **options)
            logger.warning(
                "Refused a request for %r: TASKS_ALLOWED_HOSTS names the hosts that are served", named
            )
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": MISDIRECTED})

    GuardedFlower.tasks_service_hosts = Hosts(LOOPBACK_HOSTS)
    return GuardedFlower


def _permitted(broadcast: Callable[..., Any]) -> Callable[..., Any]:
    """Remote control, until it turns out that it is not permitted."""
    forbidden = False

    def broadcast_if_permitted(*args: Any, **options: Any) -> Any:
        nonlocal forbidden
        if not forbidden:
            try:
                return broadcast(*args, **options)
            except Exception as error:
                if not isinstance(error.__cause__ or error, NoPermissionError):
                    raise
                forbidden = True
                logger.warning(
                    "The Redis user of this Flower may not give orders to workers, so the page of a single "
                    "worker stays empty (docs/guide-operators.md, Who may do what in Redis)"
                )
        return None

    return broadcast_if_permitted
