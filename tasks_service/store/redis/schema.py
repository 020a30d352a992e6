"""What is stored, by name: every stored field of every object, its default, and who must have it.

Rule 1: a stored name is written here and nowhere else. Rule 2: nothing here ever changes its meaning. A field
may be added, with a default; whatever else is to change goes by a schema version (docs/upgrading.md).

A record is one object, though it is spread over several hash fields (see `codec`). Policies, leases,
questions and the like are objects within it. Transition log, journal, idempotency keys, sessions, the mark
of the last sweep, reports, and what the registry holds are documents of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ...domain.decide import IdempotencyRecord
from ...domain.reports import LogLevel, LogMessage
from ...domain.task import (
    DAY,
    HOUR,
    SECOND,
    ClientCapability,
    EntryKind,
    Failure,
    FailureKind,
    Identity,
    InputRequest,
    JournalEntry,
    Lease,
    LogEntry,
    Phase,
    Policy,
    Progress,
    Slot,
    Task,
    TaskStatus,
    ToolException,
    Wait,
)
from ...domain.tools import ToolDefinition
from ..maintenance import DroppedMessages, SweepRecord
from ..registry import NOT_TOLD, AnnouncedTools, Delivery, Remembered, WorkerAnnouncement
from ..sessions import Session, SessionTask
from .documents import (
    Document,
    Field,
    Shape,
    StoredFields,
    Versions,
    Words,
    read_counts,
    read_json_object,
    read_names,
    read_texts,
)

logger = logging.getLogger(__name__)

RECORD_VERSIONS = Versions()
"""The schema versions of a task's record."""

STATUSES = Words(
    {
        "working": TaskStatus.WORKING,
        "input_required": TaskStatus.INPUT_REQUIRED,
        "completed": TaskStatus.COMPLETED,
        "failed": TaskStatus.FAILED,
        "cancelled": TaskStatus.CANCELLED,
    }
)

PHASES = Words(
    {
        "pending": Phase.PENDING,
        "running": Phase.RUNNING,
        "parked": Phase.PARKED,
        "completed": Phase.COMPLETED,
        "failed": Phase.FAILED,
        "cancelled": Phase.CANCELLED,
    }
)

CAPABILITIES = Words(
    {
        "form": ClientCapability.FORM,
        "url": ClientCapability.URL,
        "sampling": ClientCapability.SAMPLING,
        "roots": ClientCapability.ROOTS,
        "model": ClientCapability.MODEL,
    }
)

WAITS = Words(
    {
        "queued": Wait.QUEUED,
        "slot": Wait.SLOT,
        "no_worker": Wait.NO_WORKER,
        "no_tool": Wait.NO_TOOL,
        "removed": Wait.REMOVED,
    }
)

SLOTS = Words({"waiting": Slot.WAITING, "held": Slot.HELD})

FAILURES = Words(
    {
        "author": FailureKind.AUTHOR,
        "queue_timeout": FailureKind.QUEUE_TIMEOUT,
        "timeout": FailureKind.TIMEOUT,
        "attempts": FailureKind.ATTEMPTS,
        "question": FailureKind.QUESTION,
        "result_limit": FailureKind.RESULT_LIMIT,
        "result_invalid": FailureKind.RESULT_INVALID,
        "client_cannot": FailureKind.CLIENT_CANNOT,
        "history": FailureKind.HISTORY,
        "damaged": FailureKind.DAMAGED,
    }
)

ENTRY_KINDS = Words({"step": EntryKind.STEP, "answer": EntryKind.ANSWER, "timer": EntryKind.TIMER})

LOG_LEVELS = Words({level.value: level for level in LogLevel})
"""The levels are MCP's, and so are their names."""

POLICY = Shape(
    Policy,
    [
        Field("ttl", "ttl_ms", HOUR),
        Field("retention", "retention_ms", HOUR),
        Field("queue", "queue_timeout_ms", DAY),
        Field("timeout", "timeout_ms", DAY),
        Field("question", "question_ms", 7 * DAY),
        Field("life", "max_lifetime_ms", 30 * DAY),
        Field("lease", "lease_ms", 10 * SECOND),
        Field("attempts", "max_attempts", 3),
        Field("poll", "poll_interval_ms", SECOND),
        Field("poll_most", "max_poll_interval_ms", 10 * SECOND),
    ],
    keeps=True,
)

LEASE = Shape(
    Lease, [Field("id", "lease_id"), Field("until", "until_ms"), Field("worker", "worker")], keeps=True
)

PROGRESS = Shape(
    Progress,
    [Field("current", "current"), Field("total", "total", None), Field("message", "message", None)],
    keeps=True,
)

INPUT_REQUEST = Shape(
    InputRequest,
    [
        Field("request", "request"),
        Field("deadline", "deadline_ms"),
        Field("default", "default", None),
        Field("digest", "digest", ""),
    ],
    keeps=True,
)

FAILURE = Shape(
    Failure,
    [
        FAILURES.field("kind", "kind"),
        Field("message", "message"),
        Field("code", "code", None),
        Field("data", "data", None),
    ],
    keeps=True,
    signed=("code",),
)

SEALED_WORDS = "sealed"
"""The stored name of the words of `message` and of `progress`, where there is encryption: sealed together."""

TASK = Shape(
    Task,
    [
        Field("id", "task_id"),
        Field("owner", "owner"),
        Field("tool", "tool"),
        Field("queue", "queue"),
        POLICY.interned("policy", "policy"),
        STATUSES.field("status", "status"),
        Field("rev", "revision"),
        Field("created", "created_ms"),
        Field("updated", "updated_ms"),
        Field("due", "due_ms"),
        Field("deadline", "deadline_ms"),
        Field("expires", "expires_ms", 0),
        Field("message", "status_message", None),
        Field("claims", "claims", 0),
        Field("attempts", "attempts", 0),
        Field("retries", "retries", 0),
        LEASE.field("lease", "lease", None),
        Field("dispatched", "dispatched_ms", 0),
        Field("redispatches", "redispatches", 0),
        Field("visible", "visible", True),
        Field("return_by", "return_by_ms", 0),
        Field("resumable_until", "resumable_until_ms", 0),
        Field("reconnect", "reconnect_ms", 0),
        SLOTS.field("slot", "slot", None),
        Field("turns", "takes_turns", False),
        WAITS.field("waits", "waits", None),
        Field("era", "era", ""),
        CAPABILITIES.set_field("capabilities", "capabilities"),
        Field("trace", "trace", ""),
        Field("service", "service", ""),
        PROGRESS.field("progress", "progress", None),
        FAILURE.field("failure", "failure", None),
        Field("is_error", "is_error", False),
        Field("vars", "variables", {}, read_texts, dict),
        INPUT_REQUEST.table("inputs", "inputs"),
        Field("used_keys", "used_keys", (), read_names),
        Field("entries", "journal_length", 0),
        Field("entry_bytes", "journal_bytes", 0),
        Field("idempotency", "idempotency", ""),
        Field("parent", "parent", ""),
        Field("bytes", "stored_bytes", 0),
    ],
    keeps=True,
)

JOURNAL_ENTRY = Document(
    Shape(
        JournalEntry,
        [
            ENTRY_KINDS.field("kind", "kind"),
            Field("name", "name"),
            Field("digest", "digest"),
            Field("value", "value"),
        ],
    )
)

IDENTITY = Document(
    Shape(
        Identity,
        [
            Field("issuer", "issuer"),
            Field("subject", "subject"),
            Field("client", "client_id", ""),
            Field("scopes", "scopes", None, read_names, list),
            Field("claims", "claims", {}, read_json_object),
        ],
    )
)

TOOL_EXCEPTION = Document(
    Shape(
        ToolException,
        [
            Field("type", "type"),
            Field("message", "message", ""),
            Field("traceback", "traceback", ""),
            Field("claim", "claim", 0),
        ],
    )
)

LOG_ENTRY = Document(
    Shape(
        LogEntry,
        [
            Field("rev", "revision"),
            PHASES.field("from", "source", None),
            PHASES.field("to", "target"),
            Field("token", "token"),
            Field("by", "actor"),
            Field("at", "at_ms"),
        ],
    )
)

IDEMPOTENCY = Document(
    Shape(
        IdempotencyRecord,
        [Field("task", "task_id"), Field("digest", "request_digest")],
    )
)

SWEEP = Document(
    Shape(SweepRecord, [Field("at", "at_ms"), Field("server", "server"), Field("reap_from", "reap_from_ms")])
)

DROPPED = Document(Shape(DroppedMessages, [Field("n", "number"), Field("at", "at_ms")]))

SESSION = Document(
    Shape(
        Session,
        [
            Field("id", "session_id"),
            Field("owner", "owner"),
            Field("version", "version"),
            CAPABILITIES.set_field("capabilities", "capabilities"),
            LOG_LEVELS.field("level", "log_level", LogLevel.INFO),
            Field("service", "service", ""),
            Field("client", "client", ""),
        ],
        keeps=True,
    )
)

SESSION_TASK = Document(
    Shape(SessionTask, [Field("task", "task_id"), Field("progress", "progress_token", None)])
)


def _read_name_set(stored: Any) -> frozenset[str]:
    return frozenset(read_names(stored))


WORKER = Document(
    Shape(
        WorkerAnnouncement,
        [
            Field("service", "service"),
            Field("node", "node"),
            Field("tools", "tools", ""),
            Field("queues", "queues", frozenset(), frozenset, sorted),
            Field("version", "version", ""),
            Field("library", "library_version", ""),
            Field("instructions", "instructions", ""),
            Field("delivery", "delivery", NOT_TOLD, lambda stored: Delivery(*read_names(stored)[:3]), list),
            Field("former", "former_names", frozenset(), _read_name_set, sorted),
            Field("pool", "pool", ""),
            Field("slots", "slots", 0),
            Field("since", "since_ms", 0),
            Field("instance", "instance", ""),
        ],
    )
)


def _read_tools(stored: Mapping[str, Any]) -> dict[str, ToolDefinition]:
    """The definitions of a set of tools, without those that this release cannot read."""
    tools = {}
    for name, document in stored.items():
        try:
            tools[name] = ToolDefinition.from_document(document)
        except ValueError as error:
            logger.warning("The announced tool %r is passed over: %s", name, error)
    return tools


def _write_tools(tools: Mapping[str, ToolDefinition]) -> StoredFields:
    return {name: tool.to_document() for name, tool in tools.items()}


ANNOUNCED_TOOLS = Document(
    Shape(
        AnnouncedTools,
        [
            Field("digest", "digest"),
            Field("tools", "tools", {}, _read_tools, _write_tools),
            Field("digests", "digests", {}, read_texts, dict),
        ],
    )
)

REMEMBERED = Document(
    Shape(
        Remembered,
        [
            Field("first", "first_ms"),
            Field("last", "last_ms"),
            Field("until", "until_ms", 0),
            Field("taken", "taken_ms", {}, read_counts, dict),
            Field("former", "former_names", frozenset(), _read_name_set, sorted),
        ],
    )
)

LOG_MESSAGE = Shape(
    LogMessage, [LOG_LEVELS.field("level", "level"), Field("data", "data"), Field("logger", "logger", None)]
)
"""A report that is no `PROGRESS`: only it has a level."""
