"""The requests of a worker's main process, which hand a task back when the pool child that runs it dies.

The main process draws the lease id of an attempt, and sends it to the child in the request. So when a child
is lost it can hand the task back at once, with the child's own lease, instead of waiting for the lease to
expire. A thread of its own does that: the main process's event loop never waits for the store.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker.request import Request

from ..domain.errors import InvalidTransition, StoreUnavailable, TaskNotFound
from ..domain.events import FailWithError, Release, WorkerEvent
from ..domain.task import Failure, FailureKind, new_token
from ..failpoints import failpoint
from ..observability.context import of_task
from ..store.workers import WorkerStore

logger = logging.getLogger(__name__)

LEASE_HEADER = "tasks_service_lease"
"""The key of the lease id in Celery's request."""

CLOSE_SECONDS = 3.0
"""Seconds that a stopping worker waits for the events about its lost children to be written."""


class ToolRequest(Request):  # type: ignore[misc]
    """A request that knows the lease id of its attempt."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        failpoint("Handover", "before")
        self.lease_id = new_token()
        self.request_dict[LEASE_HEADER] = self.lease_id

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Hand the task back if the child is lost, then let Celery handle the failure."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError | Terminated | SystemExit | KeyboardInterrupt):
            self._report_loss(Release(lease_id=self.lease_id, lost=True, reason="its worker process died"))
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """Fail the task at the hard time limit, which kills the child."""
        if not soft:
            message = "The tool ran longer than its time limit, and was killed."
            failure = Failure(kind=FailureKind.TIMEOUT, message=message)
            self._report_loss(FailWithError(lease_id=self.lease_id, failure=failure))
        return super().on_timeout(soft, timeout)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Note that a child has taken the task; only passes a failpoint."""
        failpoint("Handover", "after")
        super().on_accepted(pid, time_accepted)

    def acknowledge(self) -> None:
        """Acknowledge the message; also passes failpoints."""
        failpoint("Acknowledgement", "before")
        super().acknowledge()
        failpoint("Acknowledgement", "after")

    def _report_loss(self, event: WorkerEvent) -> None:
        failpoint("ChildLoss", "before")
        self.task.engine.child_losses.put(self.kwargs["task"], event)
        failpoint("ChildLoss", "after")


class ChildLossReporter:
    """Commits events about lost pool children, in a thread of the main process."""

    def __init__(self, store: WorkerStore) -> None:
        self._store = store
        self._waiting: queue.Queue[tuple[str, WorkerEvent] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="tasks-service-child-losses", daemon=True)
        self._thread.start()

    def put(self, name: str, event: WorkerEvent) -> None:
        """Commit an event soon; returns at once."""
        self._waiting.put((name, event))

    def close(self) -> None:
        """Commit the events that wait, for at most `CLOSE_SECONDS`."""
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            name, event = waiting
            with of_task(name):
                self._commit(name, event)

    def _commit(self, name: str, event: WorkerEvent) -> None:
        try:
            self._store.commit(name, event)
        except (InvalidTransition, TaskNotFound) as refusal:
            logger.debug("Task %s needs nothing: %s", name, refusal)
        except StoreUnavailable as error:
            logger.warning("Task %s is left to the sweep: %s", name, error)
        else:
            logger.info("Task %s: %s by the worker's main process", name, type(event).__name__)
