"""Where the releases of Celery differ, from 5.5 to 5.7, for workers: the one place that knows."""

from __future__ import annotations

from billiard import common


def is_terminating() -> bool:
    """Whether billiard has been told by a signal to end this pool child.

    billiard 4.3.2, which Celery 5.7 needs, has `billiard.common.terminate_handler_fired` for it. What that
    looks at is there in all releases.
    """
    return bool(common._should_have_exited[0])
