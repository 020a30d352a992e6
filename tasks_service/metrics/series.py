"""Every series: its name, its kind, what it means, its labels, and which processes serve it.

The table in docs/guide-operators.md is compared with this one by a test, and so are the alert rules and the
dashboard. Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from ..domain.task import FailureKind
from .counting import Counter, Gauge, Histogram, Labels, Level, Role, Series

_FRONT_END: Final = (Role.FRONT_END,)
_WORKER: Final = (Role.WORKER,)
_TASKS: Final = (Role.FRONT_END, Role.WORKER)

_OF_TOOL: Final = ("service", "tool")

LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 86_400)
"""Buckets of what may take from a moment to a day: waiting, running, a whole task."""

SHORT: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Buckets of a round trip."""


class Outcome(StrEnum):
    """How a task has ended."""

    COMPLETED = "completed"
    TOOL_ERROR = "tool_error"
    """The tool has come to a result that reports an error."""
    FAILED = "failed"
    CANCELLED = "cancelled"


class LeaseLoss(StrEnum):
    """How a worker was lost while it ran a task."""

    EXPIRED = "expired"
    """It was silent for the length of a lease."""
    CHILD = "child"
    """A process of its pool died, which its parent has reported."""


class Resent(StrEnum):
    """Why a message was made again."""

    LOST = "lost"
    """The one before seemed lost."""
    DROPPED = "dropped"
    """A worker dropped the one before, because it lacks the tool."""


class Refused(StrEnum):
    """Why a front end has refused a request."""

    UNAUTHORISED = "unauthorised"
    """No valid key or token came with it."""
    FORBIDDEN = "forbidden"
    """Its key or token does not allow it, or it came from where nobody may call."""
    INVALID = "invalid"
    """It does not fit the protocol, or the tool."""
    QUOTA = "quota"
    """Its owner, or the store, has too much."""
    RATE = "rate"
    """Its caller asks too often."""
    OVERLOAD = "overload"
    """The front end has too much to do."""
    STORE = "store"
    """Redis did not answer, or took nothing."""
    STOPPING = "stopping"
    """The front end was being stopped."""
    CONNECTION = "connection"
    """The connection was ended: there were too many, or what came was too slow, or was no HTTP."""


class RedisError(StrEnum):
    """How a round trip to Redis has failed."""

    LOST = "lost"
    """No answer came."""
    REFUSED = "refused"
    """The server answered that it takes no work now."""
    FULL = "full"
    """It is at its memory limit."""
    FORBIDDEN = "forbidden"
    """Its user may not do it."""


class Maintenance(StrEnum):
    """A kind of maintenance."""

    SWEEP = "sweep"
    EXPIRE = "expire-finished-tasks"
    REAP = "reap-stale-tasks"
    RESEND = "resend-lost-messages"
    AUDIT = "audit-records"


class StoredPhase(StrEnum):
    """Where in its life a stored task is, as indexes tell."""

    PENDING = "pending"
    """It waits for a worker."""
    WAITING = "waiting"
    """It waits for a slot, or for its turn."""
    SLEEPING = "sleeping"
    """It comes due later: it sleeps, or its next attempt is delayed."""
    RUNNING = "running"
    PARKED = "parked"
    """It waits for an answer."""
    ENDED = "ended"


BY_BEAT: Final = tuple(kind for kind in Maintenance if kind is not Maintenance.SWEEP)


def _each(values: Iterable[str]) -> tuple[Labels, ...]:
    return tuple((str(value),) for value in values)


CREATED: Final = Counter("tasks_service_tasks_created", "Tasks that were recorded.", _OF_TOOL, roles=_TASKS)
FINISHED: Final = Counter(
    "tasks_service_tasks_finished",
    "Tasks that have ended, by how.",
    (*_OF_TOOL, "outcome"),
    roles=_TASKS,
)
FAILED: Final = Counter(
    "tasks_service_tasks_failed", "Tasks that have failed, by why.", (*_OF_TOOL, "reason"), roles=_TASKS
)
WAITING: Final = Histogram(
    "tasks_service_task_waiting_seconds",
    "How long a task that was due has waited until a worker took it, each time.",
    _OF_TOOL,
    roles=_WORKER,
    buckets=LONG,
)
RUNNING: Final = Histogram(
    "tasks_service_task_running_seconds",
    "How long an attempt of a task has run, however it ended.",
    _OF_TOOL,
    roles=_TASKS,
    buckets=LONG,
)
DURATION: Final = Histogram(
    "tasks_service_task_duration_seconds",
    "How long a task has taken from its creation to its end.",
    _OF_TOOL,
    roles=_TASKS,
    buckets=LONG,
)
RETRIES: Final = Counter(
    "tasks_service_task_retries", "Attempts that ended with another one to come.", _OF_TOOL, roles=_WORKER
)
LEASES_LOST: Final = Counter(
    "tasks_service_leases_lost",
    "Attempts that ended because their worker was lost, by how that was found.",
    (*_OF_TOOL, "reason"),
    roles=_WORKER,
)
STALE_WRITES: Final = Counter(
    "tasks_service_stale_writes",
    "Writes of workers that were refused because the task was not theirs any more.",
    _OF_TOOL,
    roles=_WORKER,
)
MESSAGES: Final = Counter(
    "tasks_service_messages_sent", "Messages of tasks that were sent to workers.", ("queue",), roles=_TASKS
)
RESENT: Final = Counter(
    "tasks_service_messages_resent",
    "Those of them that replace another one, by what became of it.",
    ("queue", "reason"),
    roles=_WORKER,
)
REFUSED: Final = Counter(
    "tasks_service_requests_refused",
    "Requests that were refused, by why.",
    ("reason",),
    roles=_FRONT_END,
    begins_with=_each(Refused),
)
ROUND_TRIPS: Final = Histogram(
    "tasks_service_redis_round_trip_seconds",
    "How long Redis took to answer a packet, of one command or many.",
    roles=_TASKS,
    buckets=SHORT,
)
REDIS_ERRORS: Final = Counter(
    "tasks_service_redis_errors",
    "Round trips to Redis that failed, by how.",
    ("reason",),
    roles=_TASKS,
    begins_with=_each(RedisError),
)
CONFLICTS: Final = Counter(
    "tasks_service_redis_watch_conflicts",
    "Transactions that were begun again because somebody else had written what they watched.",
    roles=_TASKS,
)
MAINTENANCE_RUNS: Final = Counter(
    "tasks_service_maintenance_runs",
    "How often maintenance was done here, by kind.",
    ("kind",),
    roles=_WORKER,
    begins_with=_each(Maintenance),
)
MAINTENANCE_TASKS: Final = Counter(
    "tasks_service_maintenance_tasks",
    "Tasks that maintenance has moved, sent again or removed here, by kind.",
    ("kind",),
    roles=_WORKER,
    begins_with=_each(kind for kind in Maintenance if kind is not Maintenance.AUDIT),
)
MAINTENANCE_FAILURES: Final = Counter(
    "tasks_service_maintenance_failures",
    "How often maintenance was broken off here by an error, by kind.",
    ("kind",),
    roles=_WORKER,
    begins_with=_each(Maintenance),
)
AUDITED: Final = Counter(
    "tasks_service_audited_tasks", "Records that were compared with their indexes.", roles=_WORKER
)
AUDIT_PROBLEMS: Final = Counter(
    "tasks_service_audit_problems", "What such an audit has found wrong.", roles=_WORKER
)
BEAT_SENT: Final = Counter(
    "tasks_service_beat_requests",
    "Maintenance that beat has asked for, by kind.",
    ("kind",),
    roles=(Role.BEAT,),
    begins_with=_each(BY_BEAT),
)

INFO: Final = Gauge("tasks_service_info", "1, for each process that serves metrics.", ("role",))
STORE_UP: Final = Gauge(
    "tasks_service_store_up",
    "Whether Redis answered when it was asked last; if not, what is read from it is missing.",
    roles=_FRONT_END,
)
TASKS: Final = Gauge("tasks_service_tasks", "Tasks that are stored, by phase.", ("phase",), roles=_FRONT_END)
PENDING: Final = Gauge(
    "tasks_service_pending_tasks", "Tasks that wait for a worker.", ("queue",), roles=_FRONT_END
)
OLDEST: Final = Gauge(
    "tasks_service_oldest_pending_seconds",
    "For how long the task has waited that has waited longest for a worker; 0 if none waits.",
    ("queue",),
    roles=_FRONT_END,
)
LIVE_WORKERS: Final = Gauge(
    "tasks_service_live_workers", "Workers that have announced themselves.", ("service",), roles=_FRONT_END
)
MAINTENANCE_AGE: Final = Gauge(
    "tasks_service_maintenance_age_seconds",
    "How long ago beat last had maintenance done, by kind; missing if it never had.",
    ("kind",),
    roles=_FRONT_END,
)
MEMORY_USED: Final = Gauge(
    "tasks_service_redis_memory_used_bytes",
    "Memory of the fullest Redis server that counts against its limit; missing if it has none.",
    roles=_FRONT_END,
)
MEMORY_LIMIT: Final = Gauge(
    "tasks_service_redis_memory_limit_bytes",
    "The memory limit of that server; missing if it has none.",
    roles=_FRONT_END,
)
STREAMS: Final = Level(
    "tasks_service_open_streams",
    "Streams of events that are open to clients.",
    roles=_FRONT_END,
)

SERIES: Final[tuple[Series, ...]] = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Series)
)
"""All of them, in the order in which they are served."""

BY_NAME: Final[Mapping[str, Series]] = {series.name: series for series in SERIES}


class Sample(NamedTuple):
    """A value of a gauge."""

    series: Gauge
    value: float
    labels: Labels = ()


def begin_tool(service: str, tool: str) -> None:
    """Serve at zero what may happen to the tasks of a tool."""
    CREATED.begin(service, tool)
    for outcome in Outcome:
        FINISHED.begin(service, tool, outcome)
    for kind in FailureKind:
        FAILED.begin(service, tool, kind)
    for loss in LeaseLoss:
        LEASES_LOST.begin(service, tool, loss)
    RETRIES.begin(service, tool)
    STALE_WRITES.begin(service, tool)


_SAID: Final[Mapping[str, type[StrEnum]]] = {
    FINISHED.name: Outcome,
    FAILED.name: FailureKind,
    LEASES_LOST.name: LeaseLoss,
    RESENT.name: Resent,
    REFUSED.name: Refused,
    REDIS_ERRORS.name: RedisError,
    TASKS.name: StoredPhase,
}
"""The words of the last label, where a table lists them."""


def series_table() -> str:
    """All series as a table in Markdown, for docs/guide-operators.md."""
    lines = ["| series | labels | served by | what it is |", "|---|---|---|---|"]
    for series in SERIES:
        name = f"{series.name}_total" if isinstance(series, Counter) else series.name
        labels = ", ".join(f"`{label}`" for label in series.labels)
        where = "all" if len(series.roles) == len(Role) else ", ".join(f"{role}s" for role in series.roles)
        words = ", ".join(f"`{word}`" for word in _SAID[series.name]) if series.name in _SAID else ""
        told = f"{series.help_text.rstrip('.')}: {words}." if words else series.help_text
        lines.append(f"| `{name}` | {labels} | {where.replace('beats', 'beat')} | {told} |")
    return "\n".join(lines)
