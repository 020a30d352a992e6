"""The messages of the tasks extension, as a client sends and receives them.

Source: MCP extension `io.modelcontextprotocol/tasks` (SEP-2663); field names are those of its schema.
"""

from __future__ import annotations

from typing import Literal

import mcp_types
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ErrorData, InputRequests, InputResponses, Result
from pydantic import BaseModel

from ..extension import TASK_META

DEFAULT_POLL_SECONDS = 1.0
"""Seconds between two polls, if the server names no interval."""

Status = Literal["working", "input_required", "completed", "failed", "cancelled"]


class TaskProgress(BaseModel):
    """The progress that a task's tool has reported."""

    progress: float
    total: float | None = None
    message: str | None = None


class TaskState(Result):
    """A task as the server shows it, in any state."""

    task_id: str
    status: Status
    status_message: str | None = None
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self.status in ("completed", "failed", "cancelled")

    @property
    def poll_seconds(self) -> float:
        """Seconds that the server asks clients to wait before the next poll."""
        return DEFAULT_POLL_SECONDS if self.poll_interval_ms is None else self.poll_interval_ms / 1000

    @property
    def progress(self) -> TaskProgress | None:
        """The progress, which the server puts under its own `_meta` key; None if there is none."""
        value = (self.meta or {}).get(TASK_META, {}).get("progress")
        return None if value is None else TaskProgress.model_validate(value)


class DetailedTask(TaskState):
    """The answer to `tasks/get`: a task with its open questions, or its result or error."""

    result: CallToolResult | None = None
    error: ErrorData | None = None
    input_requests: InputRequests | None = None


class NewTask(TaskState):
    """The answer to `tools/call` when the call became a task."""

    result_type: Literal["task"] = "task"


class TaskParams(mcp_types.RequestParams):
    """The parameters of a request about a task."""

    task_id: str


class GetTask(mcp_types.Request[TaskParams, Literal["tasks/get"]]):
    """A request for a task's state; answered with `DetailedTask`."""

    method: Literal["tasks/get"] = "tasks/get"
    name_param = "taskId"


class UpdateParams(TaskParams):
    """The parameters of `tasks/update`: answers to a task's questions, by key."""

    input_responses: InputResponses


class UpdateTask(mcp_types.Request[UpdateParams, Literal["tasks/update"]]):
    """A request that answers questions of a task."""

    method: Literal["tasks/update"] = "tasks/update"
    name_param = "taskId"


class CancelTask(mcp_types.Request[TaskParams, Literal["tasks/cancel"]]):
    """A request that cancels a task."""

    method: Literal["tasks/cancel"] = "tasks/cancel"
    name_param = "taskId"


SOONEST_SECONDS = 0.05
"""Seconds before a request is sent again, at least, whatever the server says."""


def retry_seconds(error: MCPError) -> float | None:
    """After how many seconds the server asks for the request again; None if it does not."""
    data = error.data
    after_ms = data.get("retryAfterMs") if isinstance(data, dict) else None
    return max(after_ms / 1000, SOONEST_SECONDS) if isinstance(after_ms, int | float) else None
