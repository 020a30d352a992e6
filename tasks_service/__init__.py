"""Run MCP tools as durable tasks on Celery and Redis.

Write a Python function; any MCP client can call it as a durable task; Celery workers run it, Redis holds the
truth. `TaskService` is where to begin.
"""

from .context import AsyncTaskContext, TaskContext, current_context
from .domain.errors import (
    AttemptEnded,
    AttemptLost,
    AttemptTimedOut,
    ClientCannot,
    ClientError,
    ConfigurationError,
    ProtocolError,
    ResourceNotFound,
    TaskCancelled,
    ToolError,
    WorkerStopping,
)
from .headers import Header
from .library.function import RequestContext
from .questions import Cancelled, Declined, Form, Link, Roots, Sampling
from .retry import RetryPolicy
from .service import TaskService
from .settings import Settings

__all__ = [
    "AsyncTaskContext",
    "AttemptEnded",
    "AttemptLost",
    "AttemptTimedOut",
    "Cancelled",
    "ClientCannot",
    "ClientError",
    "ConfigurationError",
    "Declined",
    "Form",
    "Header",
    "Link",
    "ProtocolError",
    "RequestContext",
    "ResourceNotFound",
    "RetryPolicy",
    "Roots",
    "Sampling",
    "Settings",
    "TaskCancelled",
    "TaskContext",
    "TaskService",
    "ToolError",
    "WorkerStopping",
    "current_context",
]
