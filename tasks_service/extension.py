"""Names that server and client share: the tasks extension, our own `_meta` keys, and a code."""

from __future__ import annotations

from typing import Final

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
"""The extension that clients declare, on each request, to get tasks."""


TASK_META: Final = "io.github.tasks-service/task"
"""Our own key in a task's `_meta`: progress and variables, which the extension has no fields for."""


REQUEST_CANCELLED: Final = -32800
"""The code of a call, or of a `tasks/result`, whose task was cancelled."""


IDEMPOTENCY_META: Final = "io.github.tasks-service/idempotency-key"
"""The `_meta` key in which a client names a `tools/call`; the same name again means the same execution."""
