"""Run MCP tools as durable tasks on Celery and Redis.

Write a Python function; any MCP client can call it as a durable task; Celery workers run it, and its state is
in Redis. Begin with `TaskService`.
"""

from .authoring.function import RequestContext
from .authoring.headers import Header
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
from .durable.annotations import Annotations, ToolAnnotations
from .durable.content import Audio, EmbeddedResource, Image, Message, ResourceLink, Text, ToolResult
from .durable.context import AsyncTaskContext, TaskContext, current_context
from .durable.questions import Cancelled, Declined, Form, Link, Roots, Sampling
from .durable.replies import ModelReply, Root
from .durable.retry import RetryPolicy
from .service import TaskService
from .settings import Settings
from .worker.maintenance.schedule import BEAT_SCHEDULE

__all__ = [
    "BEAT_SCHEDULE",
    "Annotations",
    "AsyncTaskContext",
    "AttemptEnded",
    "AttemptLost",
    "AttemptTimedOut",
    "Audio",
    "Cancelled",
    "ClientCannot",
    "ClientError",
    "ConfigurationError",
    "Declined",
    "EmbeddedResource",
    "Form",
    "Header",
    "Image",
    "Link",
    "Message",
    "ModelReply",
    "ProtocolError",
    "RequestContext",
    "ResourceLink",
    "ResourceNotFound",
    "RetryPolicy",
    "Root",
    "Roots",
    "Sampling",
    "Settings",
    "TaskCancelled",
    "TaskContext",
    "TaskService",
    "Text",
    "ToolAnnotations",
    "ToolError",
    "ToolResult",
    "WorkerStopping",
    "current_context",
]
