"""The tasks extension as a client speaks it: what it sends, and what it is answered.

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
"""Between two polls where the server names no interval."""

Status = Literal["working", "input_required", "completed", "failed", "cancelled"]


class TaskProgress(BaseModel):
    """How far a task is, if its tool says so."""

    progress: float
    total: float | None = None
    message: str | None = None


class TaskState(Result):
    """A task as the server shows it, in whatever state it is."""

    task_id: str
    status: Status
    status_message: str | None = None
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ("completed", "failed", "cancelled")

    @property
    def poll_seconds(self) -> float:
        """How long the server asks to wait before the next poll."""
        return DEFAULT_POLL_SECONDS if self.poll_interval_ms is None else self.poll_interval_ms / 1000

    @property
    def progress(self) -> TaskProgress | None:
        """How far it is, if the server says so in its own `_meta` key."""
        value = (self.meta or {}).get(TASK_META, {}).get("progress")
        return None if value is None else TaskProgress.model_validate(value)


class DetailedTask(TaskState):
    """The answer to `tasks/get`: with what the task asks, or with what it ended."""

    result: CallToolResult | None = None
    error: ErrorData | None = None
    input_requests: InputRequests | None = None


class NewTask(TaskState):
    """The answer to `tools/call` that is a task."""

    result_type: Literal["task"] = "task"


class TaskParams(mcp_types.RequestParams):
    """Which task is meant."""

    task_id: str


class GetTask(mcp_types.Request[TaskParams, Literal["tasks/get"]]):
    """How is a task? Answered with `DetailedTask`."""

    method: Literal["tasks/get"] = "tasks/get"
    name_param = "taskId"


class UpdateParams(TaskParams):
    """Answers to what a task asks, by key."""

    input_responses: InputResponses


class UpdateTask(mcp_types.Request[UpdateParams, Literal["tasks/update"]]):
    """Answer what a task asks."""

    method: Literal["tasks/update"] = "tasks/update"
    name_param = "taskId"


class CancelTask(mcp_types.Request[TaskParams, Literal["tasks/cancel"]]):
    """End a task."""

    method: Literal["tasks/cancel"] = "tasks/cancel"
    name_param = "taskId"


def may_be_tried_again(error: MCPError) -> bool:
    """Whether a server has refused only for now: it says when to ask again."""
    return "retryAfterMs" in (error.data or {})
