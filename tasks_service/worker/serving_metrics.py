"""The metrics of workers and of beat: counted from before the pool is forked, served by the main process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from ..authoring.tool import ToolRegistry
from ..domain.errors import ConfigurationError
from ..metrics.children import count_in_children, flush
from ..metrics.counting import Role
from ..metrics.series import BEAT_SENT, begin_tool
from ..settings import Settings
from ..unsafe_settings import metrics_address
from .celery_command import refuse_to_start
from .maintenance.schedule import CELERY_TASKS

if TYPE_CHECKING:
    from ..metrics.process import ProcessMetrics

_KINDS = {task: kind for kind, task in CELERY_TASKS.items()}


class WorkerMetrics:
    """The metrics of a worker: of all services whose tools it has, and of all processes of its pool.

    A bootstep of each service starts and stops them; the first one that starts serves them.
    """

    def __init__(self) -> None:
        self._served: ProcessMetrics | None = None

    def prepare(self, settings: Settings, service: str, tools: ToolRegistry) -> None:
        """Count from now on, also in children that are forked later; nothing, unless the settings say where.

        Raises:
            ConfigurationError: They cannot be served there.
        """
        if (address := metrics_address(settings)) is None:
            return
        if self._served is None:
            from ..metrics.process import ProcessMetrics  # who serves none does without a web server

            self._served = ProcessMetrics(address, Role.WORKER)
            count_in_children()
        for tool in tools:
            begin_tool(service, tool)

    def start(self) -> None:
        """Begin to serve, unless that was done."""
        if self._served is not None:
            self._served.start()

    def stop(self) -> None:
        """Serve no more."""
        served, self._served = self._served, None
        if served is not None:
            served.stop()


WORKER_METRICS = WorkerMetrics()
"""Those of this process."""


def hand_on_the_last_counts() -> None:
    """Have a child of a pool hand on what it has counted, when it ends in order."""
    signals.worker_process_shutdown.connect(_flush, weak=False, dispatch_uid=__name__)


def _flush(**_: Any) -> None:
    flush()


def serve_beats_metrics(app: Celery, settings: Settings) -> None:
    """Have the beat of an app serve its metrics, if the settings say where; nothing in other processes.

    Args:
        app: Ours, or a shop's.
        settings: The settings.
    """

    def on_beat(sender: Any = None, **_: Any) -> None:
        if sender.app is not app:
            return
        try:
            if (address := metrics_address(settings)) is None:
                return
            from ..metrics.process import ProcessMetrics

            metrics = ProcessMetrics(address, Role.BEAT)
        except ConfigurationError as error:
            refuse_to_start(error)
        signals.after_task_publish.connect(_count_request, weak=False, dispatch_uid=__name__)
        metrics.start()

    signals.beat_init.connect(on_beat, weak=False)


def _count_request(sender: Any = None, **_: Any) -> None:
    if (kind := _KINDS.get(sender)) is not None:
        BEAT_SENT.add(kind)
