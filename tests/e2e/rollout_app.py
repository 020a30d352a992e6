"""A service of which some workers are of the release before: they lack a tool, and have another one still.

They do not say either what the service was called earlier.

The same module is another service's, of the name that TESTS_SERVICE has.
"""

from __future__ import annotations

import os

from tasks_service import TaskService

IS_OLD = os.environ.get("TESTS_RELEASE") == "old"

service = TaskService(
    os.environ.get("TESTS_SERVICE", "Rollout"),
    version="1.9" if IS_OLD else "1.10",
    former_names=[] if IS_OLD else ["Roll-out"],
)
app = service.celery
app.conf.worker_soft_shutdown_timeout = 0.5


@service.tool()
def steady() -> str:
    """Both releases have it."""
    return "steady"


@service.tool(queue="gpu")
def distant() -> str:
    """Both have it, in a queue that a worker takes only when it is told to."""
    return "distant"


if IS_OLD:

    @service.tool()
    def described() -> str:
        """The older words."""
        return "old"

else:

    @service.tool()
    def fresh() -> str:
        """The newer release has it."""
        return "fresh"

    @service.tool()
    def described() -> str:
        """The newer words."""
        return "new"
