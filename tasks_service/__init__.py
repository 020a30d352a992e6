"""Run MCP tools as durable tasks on Celery and Redis.

Write a Python function; any MCP client can call it as a durable task; Celery workers run it, and its state is
in Redis. Begin with `TaskService`.

What is imported from here is loaded when it is first asked for: a command that needs neither Celery nor the
front end starts without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .authoring.completion import Completion
    from .authoring.function import RequestContext
    from .authoring.headers import Header
    from .crypto.owners import LOCAL_USER, Principal
    from .domain.errors import (
        AttemptEnded,
        AttemptLost,
        AttemptTimedOut,
        ClientCannot,
        ClientError,
        ConfigurationError,
        IdempotencyConflict,
        InvalidArguments,
        LimitExceeded,
        NotJson,
        ProtocolError,
        QuotaExceeded,
        ResourceNotFound,
        StoreUnavailable,
        TaskCancelled,
        TaskFailed,
        TaskNotFound,
        TaskWasCancelled,
        ToolError,
        WorkerStopping,
    )
    from .domain.task import Identity, Progress, TaskStatus
    from .durable.annotations import Annotations, ToolAnnotations
    from .durable.content import Audio, EmbeddedResource, Image, Message, ResourceLink, Text, ToolResult
    from .durable.context import AsyncTaskContext, TaskContext, current_context
    from .durable.questions import Cancelled, Declined, Form, Link, Roots, Sampling
    from .durable.replies import ModelReply, Root
    from .durable.retry import RetryPolicy
    from .service import TaskService
    from .settings import Settings
    from .submission.handle import TaskHandle, TaskState
    from .worker.maintenance.schedule import BEAT_SCHEDULE

__all__ = [
    "BEAT_SCHEDULE",
    "LOCAL_USER",
    "Annotations",
    "AsyncTaskContext",
    "AttemptEnded",
    "AttemptLost",
    "AttemptTimedOut",
    "Audio",
    "Cancelled",
    "ClientCannot",
    "ClientError",
    "Completion",
    "ConfigurationError",
    "Declined",
    "EmbeddedResource",
    "Form",
    "Header",
    "IdempotencyConflict",
    "Identity",
    "Image",
    "InvalidArguments",
    "LimitExceeded",
    "Link",
    "Message",
    "ModelReply",
    "NotJson",
    "Principal",
    "Progress",
    "ProtocolError",
    "QuotaExceeded",
    "RequestContext",
    "ResourceLink",
    "ResourceNotFound",
    "RetryPolicy",
    "Root",
    "Roots",
    "Sampling",
    "Settings",
    "StoreUnavailable",
    "TaskCancelled",
    "TaskContext",
    "TaskFailed",
    "TaskHandle",
    "TaskNotFound",
    "TaskService",
    "TaskState",
    "TaskStatus",
    "TaskWasCancelled",
    "Text",
    "ToolAnnotations",
    "ToolError",
    "ToolResult",
    "WorkerStopping",
    "current_context",
]

_MODULES = {
    ".authoring.completion": ("Completion",),
    ".authoring.function": ("RequestContext",),
    ".authoring.headers": ("Header",),
    ".crypto.owners": (
        "LOCAL_USER",
        "Principal",
    ),
    ".domain.errors": (
        "AttemptEnded",
        "AttemptLost",
        "AttemptTimedOut",
        "ClientCannot",
        "ClientError",
        "ConfigurationError",
        "IdempotencyConflict",
        "InvalidArguments",
        "LimitExceeded",
        "NotJson",
        "ProtocolError",
        "QuotaExceeded",
        "ResourceNotFound",
        "StoreUnavailable",
        "TaskCancelled",
        "TaskFailed",
        "TaskNotFound",
        "TaskWasCancelled",
        "ToolError",
        "WorkerStopping",
    ),
    ".domain.task": (
        "Identity",
        "Progress",
        "TaskStatus",
    ),
    ".durable.annotations": (
        "Annotations",
        "ToolAnnotations",
    ),
    ".durable.content": (
        "Audio",
        "EmbeddedResource",
        "Image",
        "Message",
        "ResourceLink",
        "Text",
        "ToolResult",
    ),
    ".durable.context": (
        "AsyncTaskContext",
        "TaskContext",
        "current_context",
    ),
    ".durable.questions": (
        "Cancelled",
        "Declined",
        "Form",
        "Link",
        "Roots",
        "Sampling",
    ),
    ".durable.replies": (
        "ModelReply",
        "Root",
    ),
    ".durable.retry": ("RetryPolicy",),
    ".service": ("TaskService",),
    ".settings": ("Settings",),
    ".submission.handle": (
        "TaskHandle",
        "TaskState",
    ),
    ".worker.maintenance.schedule": ("BEAT_SCHEDULE",),
}
"""Where each of these names is defined."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        for module, names in _MODULES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(module, __name__), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
