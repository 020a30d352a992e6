"""Where the releases of Celery differ, from 5.4 to 5.7, for workers: the one place that knows."""

from __future__ import annotations

from billiard import common
from celery.worker import state


def is_terminating() -> bool:
    """Whether billiard has been told by a signal to end this pool child.

    billiard 4.3.2, which Celery 5.7 needs, has `billiard.common.terminate_handler_fired` for it. What that
    looks at is there in all releases.
    """
    return bool(common._should_have_exited[0])


def is_shutting_down() -> bool:
    """Whether this worker's main process has been told by a signal to shut down.

    The exit status that it is given then may be 0, which is not None and not False.
    """
    told = (state.should_stop, state.should_terminate)
    return any(status is not None and status is not False for status in told)
