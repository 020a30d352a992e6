"""Names that server and client share: the tasks extension, and our own `_meta` keys."""

from __future__ import annotations

from typing import Final

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
"""The extension that clients declare on each request to be given tasks."""


TASK_META: Final = "io.github.tasks-service/task"
"""Our own key in a task's `_meta`: progress and variables, which the extension has no fields for."""


IDEMPOTENCY_META: Final = "io.github.tasks-service/idempotency-key"
"""A client's own name for a `tools/call`, in its `_meta`: the same name again is the same execution."""
