"""The state machine. Every rule about what may happen to a task lives in this file, and nowhere else.

How it works. `TRANSITIONS` is the machine as data: for each phase, which events it accepts and which phases
may follow; the diagram in `docs/state-machine.md` is drawn from it. `decide` first brings the task to its
*effective* state (what time alone has already decided: deadlines and expiry), then recognises a repeated
token, then asks the table, then the one small function that knows the event. It reads no clock and does no
I/O: a store reads a record and the clock, calls `decide`, and writes what it says, or nothing.

An event is `Applied` (here is the new task and what to write), `Replayed` (this token was applied before:
here is the line that did it) or `Refused` (here is what was met). A refused event changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from . import errors
from .events import (
    AnswerInput,
    CallerLeft,
    CallerReturned,
    Cancel,
    CancelByOperator,
    Checkpoint,
    Claim,
    CompleteWithResult,
    Create,
    DeadlinePassed,
    Event,
    Expire,
    ExplainWait,
    FailWithError,
    GrantSlot,
    MakeVisible,
    Reap,
    Redispatch,
    Release,
    Renew,
    RepairRecord,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from .limits import BLOCK_BYTES, DEFAULT_LIMITS, Limits, check_size, size, truncate, truncate_middle
from .task import (
    MINUTE,
    EntryKind,
    Failure,
    FailureKind,
    Identity,
    InputRequest,
    JournalEntry,
    JsonText,
    Lease,
    LogEntry,
    Phase,
    Slot,
    Task,
    TaskStatus,
    ToolException,
    Wait,
)

GONE = None
"""The target of expiry: the task is no more. As a source: it is not yet."""

_P, _R, _Q = Phase.PENDING, Phase.RUNNING, Phase.PARKED
_C, _F, _X = Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED

TRANSITIONS: Mapping[Phase | None, Mapping[type[Event], tuple[Phase | None, ...]]] = MappingProxyType(
    {
        GONE: {Create: (_P,)},
        _P: {
            Claim: (_R, _P, _F),
            Cancel: (_X,),
            CancelByOperator: (_X,),
            DeadlinePassed: (_F, _X),
            MakeVisible: (_P,),
            CallerLeft: (_P,),
            CallerReturned: (_P,),
            Redispatch: (_P,),
            GrantSlot: (_P,),
            ExplainWait: (_P,),
            RepairRecord: (_F,),
        },
        _R: {
            Renew: (_R,),
            Checkpoint: (_R,),
            RequestInput: (_Q,),
            Sleep: (_P,),
            Retry: (_P, _C, _F),
            Release: (_P, _F),
            CompleteWithResult: (_C,),
            FailWithError: (_F,),
            Cancel: (_X,),
            CancelByOperator: (_X,),
            Reap: (_P, _F),
            DeadlinePassed: (_F, _X),
            MakeVisible: (_R,),
            CallerLeft: (_R,),
            CallerReturned: (_R,),
            RepairRecord: (_F,),
        },
        _Q: {
            AnswerInput: (_Q, _P),
            Cancel: (_X,),
            CancelByOperator: (_X,),
            DeadlinePassed: (_Q, _P, _F, _X),
            MakeVisible: (_Q,),
            CallerLeft: (_Q,),
            CallerReturned: (_Q,),
            RepairRecord: (_F,),
        },
        _C: {Expire: (GONE,), MakeVisible: (_C,), RepairRecord: (_C, _F)},
        _F: {Expire: (GONE,), MakeVisible: (_F,), RepairRecord: (_F,)},
        _X: {Expire: (GONE,), MakeVisible: (_X,), RepairRecord: (_X,)},
    }
)
"""From a phase, by an event, to the phases that may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """What an idempotency key stands for.

    Attributes:
        task_id: The task that was created under it.
        request_digest: Of the request that created it.
    """

    task_id: str
    request_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCounts:
    """What a store saw beside the task: of its owner, when it is to be created, claimed or called.

    Attributes:
        owner_live: The owner's tasks that are not final; exact.
        owner_blocks: The blocks in which it is counted what is stored of the owner's tasks; exact.
        stored: All tasks of the owner's shard; may be a little old.
        existing: What is stored under the same idempotency key, if anything is.
        existing_task: The task that `existing` names, as it is stored; None once it is gone.
        slots_until_ms: Until when every slot of the concurrency key is held, if none of its holders ends
            before its deadline; 0 where one is free, or where their number has no limit (`slot_limit`).
        messages_ahead: Other tasks of the queue, whoever's, that have a message that no worker has taken yet;
            counted as far as `MESSAGES_AHEAD` asks for it, and only where owners take turns.
    """

    owner_live: int = 0
    owner_blocks: int = 0
    stored: int = 0
    existing: IdempotencyRecord | None = None
    existing_task: Task | None = None
    slots_until_ms: int = 0
    messages_ahead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The event happened.

    Attributes:
        task: The task afterwards; None when it is gone.
        log: Lines for the transition log; empty for what moves nothing.
        arguments: To be written with a creation.
        caller: Likewise.
        result: To be written in the same write as the status `completed`.
        exception: To be kept for operators, in place of an earlier one.
        journal: Entries to append.
    """

    task: Task | None
    log: tuple[LogEntry, ...] = ()
    arguments: JsonText | None = None
    caller: Identity | None = None
    result: JsonText | None = None
    exception: ToolException | None = None
    journal: tuple[JournalEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """This token was applied before; nothing is to be written.

    Attributes:
        task: The task as it is now; None for a creation that was found under its idempotency key.
        task_id: Which task the earlier event made or moved.
        entry: The line of the log, where it is still kept.
    """

    task: Task | None
    task_id: str
    entry: LogEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The event may not happen; nothing is to be written.

    Attributes:
        current: The phase that was met; None if there is no such task.
        error: What to raise.
    """

    current: Phase | None
    error: errors.TasksServiceError


Decision = Applied | Replayed | Refused


class _Refusal(Exception):
    """How a handler says no; turned into `Refused` by `decide`."""

    def __init__(self, error: errors.TasksServiceError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What every handler needs beside task and event."""

    now_ms: int
    limits: Limits
    counts: StoreCounts


def decide(
    task: Task | None,
    event: Event,
    now_ms: int,
    *,
    log: Sequence[LogEntry] = (),
    limits: Limits = DEFAULT_LIMITS,
    counts: StoreCounts | None = None,
) -> Decision:
    """Say what an event does to a task.

    Args:
        task: The stored task, or None if there is none.
        event: What happens.
        now_ms: The store's clock.
        log: The task's transition log, to recognise a repeated token.
        limits: What is allowed.
        counts: For `Create`, `Claim` and `GrantSlot`: what the store counted.

    Returns:
        Applied, Replayed or Refused; never raises for anything that a caller can send.
    """
    moment = _Moment(now_ms=now_ms, limits=limits, counts=counts or StoreCounts())
    effective_task, passed = _apply_deadlines(task, now_ms, keep_expired=isinstance(event, Create | Expire))
    if effective_task is not None and (entry := _find(log, event.token)) is not None:
        return Replayed(task=effective_task, task_id=effective_task.task_id, entry=entry)
    phase = None if effective_task is None else effective_task.phase
    try:
        if isinstance(event, DeadlinePassed):
            return _counted(task, _deadline_passed(task, effective_task, passed, event))
        _guard(effective_task, phase, event)
        decided = _HANDLERS[type(event)](effective_task, event, moment)
    except _Refusal as refusal:
        return Refused(current=phase, error=refusal.error)
    except errors.LimitExceeded as error:
        return Refused(current=phase, error=error)
    if isinstance(decided, Replayed):
        return decided
    target = None if decided.task is None else decided.task.phase
    if target not in TRANSITIONS[phase][type(event)]:
        raise AssertionError(f"{type(event).__name__} led from {phase} to {target}, which the table forbids")
    applied = Applied(
        task=decided.task and _as_of(decided.task, now_ms),
        log=(*passed.log, *decided.log),
        arguments=decided.arguments,
        caller=decided.caller,
        result=decided.result,
        exception=decided.exception,
        journal=(*passed.journal, *decided.journal),
    )
    return _counted(task, applied)


def effective(task: Task, now_ms: int) -> Task | None:
    """The task as time has made it, whether or not a sweep has written that down.

    Args:
        task: The stored task.
        now_ms: The store's clock.

    Returns:
        The task after all passed deadlines; None once it has expired.
    """
    return _apply_deadlines(task, now_ms)[0]


def kept_until_ms(task: Task) -> int:
    """Until when a task is kept at least: as long as if it ended at the moment of which this is its state.

    While the task lives, that grows with time.
    """
    return task.expires_ms if task.status.is_final else _expiry_ms(task, task.as_of_ms)


def ttl_ms(task: Task) -> int:
    """How long a task is kept at least, from its creation: `kept_until_ms` (docs/protocol.md, "ttlMs")."""
    return kept_until_ms(task) - task.created_ms


POLLS_OF_A_WAIT = 20
"""A client that polls as it is told learns of a change after at most this part more of what it has waited."""


def poll_interval_ms(task: Task) -> int:
    """How long clients are asked to wait until the next poll: longer, the longer the task has not moved."""
    policy = task.policy
    grown_ms = min((task.as_of_ms - task.updated_ms) // POLLS_OF_A_WAIT, policy.max_poll_interval_ms)
    return max(policy.poll_interval_ms, grown_ms)


MESSAGES_AHEAD = 1
"""Where owners take turns: with fewer messages of a queue on their way to workers, workers may soon be idle.

Then an owner who has a slot gets another one. One message is enough to keep busy workers busy. Each further
one would be another task that a newcomer has to wait for, however long it runs.
"""


def slot_limit(limits: Limits, queue: str, *, takes_turns: bool) -> int | None:
    """How many slots a concurrency key has; None: nobody needs one.

    Where owners take turns it is one, so that nobody is passed over for ever. Further ones are given while
    workers would be idle.
    """
    limit = limits.concurrency_limit(queue)
    return 1 if limit is None and takes_turns else limit


def needs_slot(task: Task | None, event: Event) -> bool:
    """Whether what an event does depends on the slots in the task's key, so that they have to be counted."""
    if isinstance(event, Claim):
        return task is not None and not task.status.is_final and task.slot is not Slot.HELD
    return isinstance(event, Create | GrantSlot)


REDISPATCH_FIRST_MS = 2_000
REDISPATCH_MOST_MS = 60_000


def redispatch_backoff_ms(redispatches: int) -> int:
    """How long after the nth redispatch of a task the next may come: 2 s doubling to 60 s."""
    return min(REDISPATCH_FIRST_MS << min(redispatches, 16), REDISPATCH_MOST_MS)


def next_due_ms(task: Task) -> int:
    """When time alone will next change this task: by a deadline, by its caller's absence, or by its end."""
    if task.status.is_final:
        return task.expires_ms
    return min(task.deadline_ms, task.return_by_ms) if task.return_by_ms else task.deadline_ms


# --- what is stored ----------------------------------------------------------------------------------


def _counted(before: Task | None, applied: Applied) -> Applied:
    """The same, with what is now stored of the task counted; journal entries are counted as they are added.

    By what the event changes, so that nothing has to be read for it, and a task that an older release has
    recorded is never taken for more than was counted.
    """
    after = applied.task
    if after is None:
        return applied
    added = 0
    if before is not None and after.variables is not before.variables:
        added += size(_variables_text(after.variables)) - size(_variables_text(before.variables))
    added += sum(size(text) for text in (applied.arguments, applied.result) if text is not None)
    if not added:
        return applied
    return replace(applied, task=replace(after, stored_bytes=max(after.stored_bytes + added, 0)))


def _variables_text(variables: Mapping[str, JsonText]) -> str:
    """Variables as they are measured."""
    return "".join(f'"{name}":{value},' for name, value in variables.items())


# --- time -----------------------------------------------------------------------------------------


_WAITS: Mapping[Wait, str] = MappingProxyType(
    {
        Wait.QUEUED: "Waits for a worker.",
        Wait.SLOT: "Waits for a slot: another task of the same owner must end first.",
        Wait.NO_WORKER: "Waits: no worker that has the tool '{tool}' takes the queue '{queue}' now.",
        Wait.NO_TOOL: "Waits: no worker has the tool '{tool}' now.",
        Wait.REMOVED: "Waits: the tool '{tool}' was removed, and no worker has it any more.",
    }
)
"""What the status message of a pending task says."""

_WAITS_FOR_TURN = "Waits for its turn: other tasks are before it in the queue '{queue}'."

_LEFT = "The caller went away and did not come back."
_LIFETIME_OVER = "The task came to the end of the longest life that its tool allows."


@dataclass(frozen=True, slots=True)
class _Passed:
    """What the deadlines that have passed leave behind: lines of the log, answers given by default."""

    log: tuple[LogEntry, ...] = ()
    journal: tuple[JournalEntry, ...] = ()


def _apply_deadlines(
    task: Task | None, now_ms: int, *, keep_expired: bool = False
) -> tuple[Task | None, _Passed]:
    log: tuple[LogEntry, ...] = ()
    journal: tuple[JournalEntry, ...] = ()
    while task is not None and not task.status.is_final and now_ms >= next_due_ms(task):
        after, answers = _pass_deadline(task)
        log += (_line(task.phase, after, f"overdue-{after.revision}", "sweep", next_due_ms(task)),)
        journal += answers
        task = after
    if task is not None and task.status.is_final and now_ms >= task.expires_ms and not keep_expired:
        return None, _Passed()
    return task and _as_of(task, now_ms), _Passed(log, journal)


def _as_of(task: Task, now_ms: int) -> Task:
    # A copy of a task costs more than all else that a poll decides.
    return task if task.as_of_ms == now_ms else replace(task, as_of_ms=now_ms)


def _expiry_ms(task: Task, ended_ms: int) -> int:
    """When a task goes that ended at a moment; never earlier for a later moment.

    While nobody has its handle, it is kept for those who can come back without one: its caller after a lost
    connection, or with a `requestState`. An idempotency key promises as much as a handle.
    """
    policy = task.policy
    kept_ms = max(task.created_ms + policy.ttl_ms, ended_ms + policy.retention_ms)
    if not task.visible:
        returns_ms = max(task.resumable_until_ms, ended_ms + task.reconnect_ms)
        kept_ms = max(kept_ms, returns_ms) if task.idempotency else returns_ms
    return min(kept_ms, task.created_ms + policy.max_lifetime_ms)


def _pass_deadline(task: Task) -> tuple[Task, tuple[JournalEntry, ...]]:
    """One deadline passes, at the moment it was set for: so reads are stable and a late sweep agrees."""
    at_ms = next_due_ms(task)
    if at_ms < task.deadline_ms:
        return _ended(task, at_ms, TaskStatus.CANCELLED, status_message=_LEFT), ()
    capped = at_ms >= _latest_ms(task)
    if task.phase is _P:
        message = _LIFETIME_OVER if capped else _in_vain(task)
        return _failed(task, at_ms, FailureKind.QUEUE_TIMEOUT, message), ()
    if task.phase is _R:
        message = (
            _LIFETIME_OVER if capped else f"The tool ran longer than its {task.policy.timeout_ms / 1000:g} s."
        )
        return _failed(task, at_ms, FailureKind.TIMEOUT, message), ()
    due = {key: asked for key, asked in task.inputs.items() if asked.deadline_ms <= at_ms}
    answers = {
        key: _answer(key, asked, asked.default) for key, asked in due.items() if asked.default is not None
    }
    if len(answers) < len(due):
        return _failed(task, at_ms, FailureKind.QUESTION, "A question was not answered in time."), ()
    return _answered(task, answers, at_ms), tuple(answers.values())


def _in_vain(task: Task) -> str:
    if task.slot is Slot.WAITING:
        whose = "tasks of several owners" if task.takes_turns else "its owner's other tasks"
        return f"It got no slot in time: {whose} kept the queue '{task.queue}' busy."
    return f"No worker that has the tool '{task.tool}' took the task in time."


def _deadline_passed(
    stored: Task | None, effective_task: Task | None, passed: _Passed, event: Event
) -> Applied:
    if stored is None or effective_task is None:
        raise _Refusal(errors.TaskNotFound(""))
    if not passed.log:
        raise _Refusal(_invalid(stored, event, "no deadline has passed"))
    last = replace(passed.log[-1], token=event.token)
    return Applied(task=effective_task, log=(*passed.log[:-1], last), journal=passed.journal)


def _answer(key: str, asked: InputRequest, value: JsonText) -> JournalEntry:
    return JournalEntry(kind=EntryKind.ANSWER, name=key, digest=asked.digest, value=value)


# --- the events -----------------------------------------------------------------------------------


def _guard(task: Task | None, phase: Phase | None, event: Event) -> None:
    if type(event) in TRANSITIONS[phase] and task is None:
        return
    if task is None:
        raise _Refusal(errors.TaskNotFound(""))
    if isinstance(event, WorkerEvent) and (task.lease is None or task.lease.lease_id != event.lease_id):
        reason = "the lease is not the writer's"
        raise _Refusal(errors.LeaseLost(task.task_id, task.phase, type(event).__name__, reason))
    if type(event) not in TRANSITIONS[phase]:
        raise _Refusal(_invalid(task, event, f"not possible while {task.phase}"))
    if isinstance(event, WorkerEvent) and task.journal_length < event.journal_length:
        kept = task.journal_length
        raise _Refusal(errors.JournalRolledBack(task.task_id, task.phase, type(event).__name__, kept=kept))


def _create(_: Task | None, event: Create, moment: _Moment) -> Applied | Replayed:
    counts, limits, now_ms = moment.counts, moment.limits, moment.now_ms
    if (existing := counts.existing) is not None and _is_there(counts.existing_task, now_ms):
        if existing.request_digest != event.request_digest or _is_of_another(counts.existing_task, event):
            raise _Refusal(errors.IdempotencyConflict())
        return Replayed(task=None, task_id=existing.task_id)
    check_size("arguments", event.arguments, limits.arguments_bytes)
    _check_quotas(event, counts, limits)
    policy = event.policy
    latest_ms = now_ms + policy.max_lifetime_ms - policy.retention_ms
    deadline_ms = min(now_ms + policy.queue_timeout_ms, latest_ms)
    slot = _slot(event, moment)
    waits = Wait.SLOT if slot is Slot.WAITING else event.waits
    task = Task(
        task_id=event.task_id,
        owner=event.owner,
        tool=event.tool,
        queue=event.queue,
        policy=policy,
        status=TaskStatus.WORKING,
        status_message=_wait_message(waits, event),
        waits=waits,
        revision=0,
        as_of_ms=now_ms,
        created_ms=now_ms,
        updated_ms=now_ms,
        due_ms=now_ms,
        deadline_ms=deadline_ms,
        dispatched_ms=now_ms,
        visible=event.visible,
        reconnect_ms=0 if event.visible else event.reconnect_ms,
        resumable_until_ms=now_ms + event.resumable_ms if event.resumable_ms else 0,
        slot=slot,
        takes_turns=event.takes_turns,
        era=event.era,
        capabilities=event.capabilities,
        trace=event.trace,
        service=event.service,
        idempotency=event.idempotency,
        parent=event.parent,
    )
    return Applied(
        task=_journaled(task, event.journal, limits),
        log=(_line(None, task, event.token, event.actor, now_ms),),
        arguments=event.arguments,
        caller=event.caller,
        journal=event.journal,
    )


def _is_there(task: Task | None, now_ms: int) -> bool:
    return task is not None and effective(task, now_ms) is not None


def _is_of_another(task: Task | None, event: Create) -> bool:
    """Whether a task is known to be another service's than the one that is called, by any of its names."""
    if task is None or not task.service or not event.service:
        return False
    return task.service != event.service and task.service not in event.former_names


def _check_quotas(event: Create, counts: StoreCounts, limits: Limits) -> None:
    if counts.owner_live >= limits.live_per_owner:
        raise _Refusal(
            errors.QuotaExceeded(
                "live tasks of one owner",
                maximum=limits.live_per_owner,
                actual=counts.owner_live,
                unit="tasks",
                setting="TASKS_MAX_LIVE_PER_OWNER",
            )
        )
    new_bytes = size(event.arguments) + sum(size(entry.value) for entry in event.journal)
    stored_bytes = (counts.owner_blocks + 1 + new_bytes // BLOCK_BYTES) * BLOCK_BYTES
    if stored_bytes > limits.stored_per_owner:
        raise _Refusal(
            errors.QuotaExceeded(
                "stored bytes of one owner",
                maximum=limits.stored_per_owner,
                actual=stored_bytes,
                unit="bytes",
                setting="TASKS_MAX_STORED_PER_OWNER",
                until="some tasks have expired",
                retry_after_ms=MINUTE,
            )
        )
    if counts.stored >= limits.tasks_per_shard:
        raise _Refusal(
            errors.QuotaExceeded(
                "stored tasks of one shard",
                maximum=limits.tasks_per_shard,
                actual=counts.stored,
                unit="tasks",
                setting="TASKS_MAX_TASKS_PER_SHARD",
                until="some have expired",
                retry_after_ms=MINUTE,
            )
        )


def _claim(task: Task, event: Claim, moment: _Moment) -> Applied:
    now_ms, policy = moment.now_ms, task.policy
    if task.service and event.services and task.service not in event.services:
        raise _Refusal(
            errors.OfAnotherService(
                task.task_id, task.phase, type(event).__name__, service=task.service, queue=task.queue
            )
        )
    if now_ms < task.due_ms:
        raise _Refusal(_invalid(task, event, f"not due for another {task.due_ms - now_ms} ms"))
    if task.attempts >= policy.max_attempts:
        return _logged(task, _used_up(task, now_ms, "its workers were lost"), event, now_ms)
    slot = task.slot if task.slot is Slot.HELD else _slot(task, moment)
    if slot is Slot.WAITING:
        return Applied(task=_waiting(replace(task, slot=slot), Wait.SLOT))
    deadline_ms = min(now_ms + policy.timeout_ms, _latest_ms(task))
    lease = Lease(
        lease_id=event.lease_id, until_ms=min(now_ms + policy.lease_ms, deadline_ms), worker=event.worker
    )
    claimed = _moved(
        task,
        now_ms,
        deadline_ms,
        lease=lease,
        claims=task.claims + 1,
        attempts=task.attempts + 1,
        redispatches=0,
        slot=slot,
    )
    return _logged(task, claimed, event, now_ms, actor=event.worker)


def _slot(task: Task | Create, moment: _Moment) -> Slot | None:
    """What becomes of a task that needs a slot: it takes one that is free, or waits.

    Where owners take turns, there is one more as long as no other task of the queue waits for a worker.
    """
    limits, counts = moment.limits, moment.counts
    if slot_limit(limits, task.queue, takes_turns=task.takes_turns) is None:
        return None
    if moment.now_ms >= counts.slots_until_ms:
        return Slot.HELD
    if limits.concurrency_limit(task.queue) is None and counts.messages_ahead < MESSAGES_AHEAD:
        return Slot.HELD
    return Slot.WAITING


def _renew(task: Task, _: Renew, moment: _Moment) -> Applied:
    assert task.lease is not None  # noqa: S101 - the guard has compared it
    until_ms = min(moment.now_ms + task.policy.lease_ms, task.deadline_ms)
    return Applied(task=replace(task, lease=replace(task.lease, until_ms=max(until_ms, task.lease.until_ms))))


def _checkpoint(task: Task, event: Checkpoint, moment: _Moment) -> Applied | Replayed:
    limits = moment.limits
    changed: dict[str, Any] = {}
    if event.variables:
        variables = {**task.variables, **event.variables}
        kept = {name: value for name, value in variables.items() if value is not None}
        check_size("variables", _variables_text(kept), limits.variables_bytes)
        changed["variables"] = kept
    if event.progress is not None:
        message = _message(event.progress.message, limits)
        changed["progress"] = replace(event.progress, message=message)
        if message is not None:
            changed["status_message"] = message
    if event.step is None:
        return Applied(task=replace(task, **changed))
    if event.step_index < task.journal_length:
        return Replayed(task=task, task_id=task.task_id)
    if event.step_index > task.journal_length:
        raise _Refusal(_invalid(task, event, f"the journal ends at {task.journal_length}"))
    noted = _journaled(replace(task, **changed), (event.step,), limits)
    return Applied(task=noted, journal=(event.step,))


def _request_input(task: Task, event: RequestInput, moment: _Moment) -> Applied:
    now_ms, limits = moment.now_ms, moment.limits
    if reused := sorted(set(event.inputs) & set(task.used_keys)):
        raise _Refusal(_invalid(task, event, f"question key {reused[0]!r} was used before"))
    if not event.inputs:
        raise _Refusal(_invalid(task, event, "no question was asked"))
    if len(event.inputs) > limits.open_inputs:
        raise errors.LimitExceeded(
            "open questions", maximum=limits.open_inputs, actual=len(event.inputs), unit="questions"
        )
    if (length := task.journal_length + len(event.inputs)) > limits.journal_entries:
        raise errors.LimitExceeded("journal", maximum=limits.journal_entries, actual=length, unit="entries")
    inputs = {
        key: question.opened(now_ms, task.policy, _latest_ms(task)) for key, question in event.inputs.items()
    }
    parked = _moved(
        task,
        now_ms,
        min(asked.deadline_ms for asked in inputs.values()),
        status=TaskStatus.INPUT_REQUIRED,
        status_message=_message(event.message, limits),
        lease=None,
        attempts=0,
        inputs=inputs,
        used_keys=(*task.used_keys, *inputs),
    )
    return _logged(task, parked, event, now_ms)


def _answer_input(task: Task, event: AnswerInput, moment: _Moment) -> Applied:
    known = {
        key: _answer(key, task.inputs[key], value)
        for key, value in event.answers.items()
        if key in task.inputs
    }
    if not known:
        return Applied(task=task)
    check_size("answers", "".join(entry.value for entry in known.values()), moment.limits.answers_bytes)
    answered = _answered(task, known, moment.now_ms, moment.limits)
    applied = _logged(task, answered, event, moment.now_ms)
    return replace(applied, journal=tuple(known.values()))


def _sleep(task: Task, event: Sleep, moment: _Moment) -> Applied:
    entries = () if event.timer is None else (event.timer,)
    noted = _journaled(task, entries, moment.limits)
    asleep = _pending(noted, moment.now_ms, event.delay_ms, attempts=0)
    return replace(_logged(task, asleep, event, moment.now_ms), journal=entries)


def _retry(task: Task, event: Retry, moment: _Moment) -> Applied:
    if event.limited and task.attempts >= task.policy.max_attempts:
        ended = replace(event.otherwise, token=event.token, exception=event.exception)
        return _HANDLERS[type(ended)](task, ended, moment)  # type: ignore[return-value]
    message = _message(event.message, moment.limits)
    again = _pending(
        task,
        moment.now_ms,
        event.delay_ms,
        status_message=message,
        retries=task.retries + 1,
        attempts=task.attempts if event.limited else 0,
    )
    applied = _logged(task, again, event, moment.now_ms)
    return replace(applied, exception=_kept(event.exception, moment.limits))


def _release(task: Task, event: Release, moment: _Moment) -> Applied:
    now_ms = moment.now_ms
    if event.lost and task.attempts >= task.policy.max_attempts:
        return _logged(task, _used_up(task, now_ms, event.reason or "its worker was lost"), event, now_ms)
    tries = task.attempts if event.lost else max(task.attempts - 1, 0)
    return _logged(task, _pending(task, now_ms, 0, attempts=tries, slot=task.slot), event, now_ms)


def _complete(task: Task, event: CompleteWithResult, moment: _Moment) -> Applied:
    check_size("result", event.result, moment.limits.result_bytes)
    done = _ended(
        task,
        moment.now_ms,
        TaskStatus.COMPLETED,
        is_error=event.is_error,
        status_message=_message(event.message, moment.limits),
    )
    exception = _kept(event.exception, moment.limits)
    return replace(_logged(task, done, event, moment.now_ms), result=event.result, exception=exception)


def _fail(task: Task, event: FailWithError, moment: _Moment) -> Applied:
    limits, failure = moment.limits, event.failure
    if failure.data is not None:
        check_size("error data", failure.data, limits.variables_bytes)
    message = truncate(failure.message, limits.status_message_bytes)
    failed = _ended(
        task,
        moment.now_ms,
        TaskStatus.FAILED,
        failure=replace(failure, message=message),
        status_message=message,
    )
    applied = _logged(task, failed, event, moment.now_ms)
    return replace(applied, exception=_kept(event.exception, limits))


def _cancel(task: Task, event: Cancel, moment: _Moment) -> Applied:
    if event.unheld and task.visible:
        raise _Refusal(_invalid(task, event, "its handle was given out"))
    return _cancelled(task, event, moment)


def _cancelled(task: Task, event: Cancel | CancelByOperator, moment: _Moment) -> Applied:
    message = _message(event.reason, moment.limits)
    cancelled = _ended(task, moment.now_ms, TaskStatus.CANCELLED, status_message=message)
    return _logged(task, cancelled, event, moment.now_ms)


def _make_visible(task: Task, _: MakeVisible, __: _Moment) -> Applied:
    """Whoever has the handle needs not wait, and so cannot leave; the task is kept as one with a handle."""
    shown = replace(task, visible=True, return_by_ms=0)
    if not task.status.is_final:
        return Applied(task=shown)
    return Applied(task=replace(shown, expires_ms=max(task.expires_ms, _expiry_ms(shown, task.deadline_ms))))


def _caller_left(task: Task, event: CallerLeft, moment: _Moment) -> Applied:
    if task.visible:
        raise _Refusal(_invalid(task, event, "its handle was given out"))
    return_by_ms = moment.now_ms + event.within_ms
    resumable_until_ms = max(task.resumable_until_ms, return_by_ms)
    return Applied(task=replace(task, return_by_ms=return_by_ms, resumable_until_ms=resumable_until_ms))


def _caller_returned(task: Task, _: CallerReturned, __: _Moment) -> Applied:
    return Applied(task=replace(task, return_by_ms=0))


def _reap(task: Task, event: Reap, moment: _Moment) -> Applied:
    assert task.lease is not None  # noqa: S101 - the table lets only running tasks come here
    if moment.now_ms < task.lease.until_ms:
        raise _Refusal(_invalid(task, event, "the lease has not run out"))
    lost = f"worker {task.lease.worker} was lost"
    if task.attempts >= task.policy.max_attempts:
        return _logged(task, _used_up(task, moment.now_ms, lost), event, moment.now_ms)
    again = _pending(task, moment.now_ms, 0, slot=task.slot, status_message=f"Runs again: {lost}.")
    return _logged(task, again, event, moment.now_ms)


def _expire(task: Task, event: Expire, moment: _Moment) -> Applied:
    if moment.now_ms < task.expires_ms:
        raise _Refusal(_invalid(task, event, "it has not expired"))
    return Applied(task=None)


def _redispatch(task: Task, event: Redispatch, moment: _Moment) -> Applied:
    if moment.now_ms < task.due_ms:
        raise _Refusal(_invalid(task, event, "it is not due"))
    if task.slot is Slot.WAITING:
        raise _Refusal(_invalid(task, event, "it waits for a slot"))
    if event.dropped_ms:
        return _replace_dropped(task, event, moment)
    again_ms = task.dispatched_ms + redispatch_backoff_ms(task.redispatches)
    if task.redispatches and moment.now_ms < again_ms:
        # Two sweepers have found the same task; one message is enough.
        raise _Refusal(_invalid(task, event, "another message has just been made"))
    again = replace(task, dispatched_ms=moment.now_ms, redispatches=task.redispatches + 1)
    return Applied(task=again)


def _replace_dropped(task: Task, event: Redispatch, moment: _Moment) -> Applied:
    """Another message for one that is known to be lost; it does not count among those that seem so."""
    if task.dispatched_ms != event.dropped_ms:
        raise _Refusal(_invalid(task, event, "another message has been made"))
    return Applied(task=replace(task, dispatched_ms=max(moment.now_ms, event.dropped_ms + 1)))


def _grant_slot(task: Task, event: GrantSlot, moment: _Moment) -> Applied:
    """From here on the task waits for a worker, no longer for a slot: its queue timeout begins."""
    now_ms, policy = moment.now_ms, task.policy
    if task.slot is not Slot.WAITING:
        raise _Refusal(_invalid(task, event, "it does not wait for a slot"))
    if (slot := _slot(task, moment)) is Slot.WAITING:
        raise _Refusal(errors.ConcurrencyLimitReached(task.task_id, task.phase, type(event).__name__))
    deadline_ms = min(now_ms + policy.queue_timeout_ms, _latest_ms(task))
    called = replace(
        task,
        slot=slot,
        dispatched_ms=now_ms,
        deadline_ms=deadline_ms,
    )
    return Applied(task=_waiting(called, Wait.QUEUED))


def _explain_wait(task: Task, event: ExplainWait, moment: _Moment) -> Applied:
    """Its revision grows, so that whoever follows the task is told; but nothing has moved."""
    has_message = task.updated_ms >= task.due_ms or task.redispatches > 0 or task.slot is not None
    if task.slot is Slot.WAITING or moment.now_ms < task.due_ms or not has_message:
        raise _Refusal(_invalid(task, event, "it does not wait for a worker"))
    if event.waits is Wait.SLOT:
        raise _Refusal(_invalid(task, event, "it has its slot, or needs none"))
    if task.waits is event.waits or (task.waits is None and event.waits is Wait.QUEUED):
        raise _Refusal(_invalid(task, event, "its status message needs no other words"))
    dispatched_ms = moment.now_ms if event.sends else task.dispatched_ms
    told = replace(
        _waiting(task, event.waits),
        revision=task.revision + 1,
        updated_ms=max(moment.now_ms, task.updated_ms),
        dispatched_ms=dispatched_ms,
    )
    return _logged(task, told, event, moment.now_ms)


def inconsistency(task: Task, evidence: RepairRecord) -> str | None:
    """What a record says against itself, in a sentence for whoever called the tool; None if it is sound.

    None of this can come from an event, since each writes status and payload together: it is what a hand in
    the store, a bug or a half-restored backup leaves behind.
    """
    status = task.status
    if status is TaskStatus.COMPLETED and not evidence.result_present:
        return "The task was completed, and its result was lost in the store."
    if status is TaskStatus.FAILED and task.failure is None:
        return "The task failed, and its error was lost in the store."
    if status is TaskStatus.INPUT_REQUIRED and not task.inputs:
        return "The task waited for answers, and its questions were lost in the store."
    if evidence.journal_kept < task.journal_length:
        return "A recorded step of the task was lost in the store."
    if status is not TaskStatus.FAILED and task.failure is not None:
        return f"The task was {status} and carried an error at once."
    if status is not TaskStatus.INPUT_REQUIRED and task.inputs:
        return f"The task was {status} and had open questions at once."
    if status is not TaskStatus.WORKING and task.lease is not None:
        return f"The task was {status} and held by a worker at once."
    return None


def _repair_record(task: Task, event: RepairRecord, moment: _Moment) -> Applied:
    """A record that contradicts itself comes to an end that is true.

    Why failed. A task that says `completed` and has no result can be left as it is, run again, or failed.
    Left, every reader meets a lie, and a caller that waits for the result breaks on it. Run again, its
    effects happen twice, which `completed` had promised against. Failed is what is true: there was a result
    and nobody will ever see it. It is the only way from one final phase to another; the log names the
    repair. The same holds for questions that nobody can answer any more (running on without the answers would
    be a guess) and for lost journal entries of a task that is not over (its steps would run twice).

    A task that is over, and has what belongs to its end, keeps that end: what does not belong to it (a lease,
    a question, another phase's error, entries of a journal that nobody will replay) is let go.
    """
    if (what := inconsistency(task, event)) is None:
        raise _Refusal(_invalid(task, event, "the record is sound"))
    kept = replace(
        task,
        journal_length=min(task.journal_length, event.journal_kept),
        journal_bytes=event.journal_bytes_kept,
        stored_bytes=max(task.stored_bytes - max(task.journal_bytes - event.journal_bytes_kept, 0), 0),
    )
    if _has_its_end(task, event):
        failure = task.failure if task.status is TaskStatus.FAILED else None
        fixed = _moved(kept, moment.now_ms, task.deadline_ms, lease=None, inputs={}, failure=failure)
    else:
        fixed = _failed(kept, min(moment.now_ms, _latest_ms(task)), FailureKind.DAMAGED, what)
    return _logged(task, fixed, event, moment.now_ms)


def _has_its_end(task: Task, event: RepairRecord) -> bool:
    if task.status is TaskStatus.COMPLETED:
        return event.result_present
    return task.status is TaskStatus.CANCELLED or (
        task.status is TaskStatus.FAILED and task.failure is not None
    )


_Handler = Callable[[Any, Any, _Moment], Applied | Replayed]

_HANDLERS: Mapping[type[Event], _Handler] = MappingProxyType(
    {
        Create: _create,
        Claim: _claim,
        Renew: _renew,
        Checkpoint: _checkpoint,
        RequestInput: _request_input,
        AnswerInput: _answer_input,
        Sleep: _sleep,
        Retry: _retry,
        Release: _release,
        CompleteWithResult: _complete,
        FailWithError: _fail,
        Cancel: _cancel,
        CancelByOperator: _cancelled,
        MakeVisible: _make_visible,
        CallerLeft: _caller_left,
        CallerReturned: _caller_returned,
        Reap: _reap,
        Expire: _expire,
        Redispatch: _redispatch,
        GrantSlot: _grant_slot,
        ExplainWait: _explain_wait,
        RepairRecord: _repair_record,
    }
)


# --- the pieces that transitions are made of ---------------------------------------------------------


def _latest_ms(task: Task) -> int:
    """The last moment that any deadline of this task may name: its longest life, less its retention."""
    return task.created_ms + task.policy.max_lifetime_ms - task.policy.retention_ms


def _moved(task: Task, now_ms: int, deadline_ms: int, **changes: Any) -> Task:
    """The task one revision on, with the deadline of its new phase.

    Whoever moves gives its slot back, unless the move says otherwise: what is interrupted goes on before
    others begin.
    """
    changes.setdefault("slot", None)
    if task.waits is not None:
        changes.setdefault("waits", None)
        changes.setdefault("status_message", None)
    return replace(
        task,
        revision=task.revision + 1,
        updated_ms=max(now_ms, task.updated_ms),
        deadline_ms=deadline_ms,
        **changes,
    )


def _pending(task: Task, now_ms: int, delay_ms: int, **changes: Any) -> Task:
    """Waiting for a worker, due after `delay_ms`; the wait itself is outside the queue timeout."""
    latest_ms = _latest_ms(task)
    due_ms = min(now_ms + max(delay_ms, 0), latest_ms)
    deadline_ms = min(due_ms + task.policy.queue_timeout_ms, latest_ms)
    changes.setdefault("status_message", None if task.waits else task.status_message)
    return _moved(
        task,
        now_ms,
        deadline_ms,
        status=TaskStatus.WORKING,
        lease=None,
        due_ms=due_ms,
        dispatched_ms=due_ms,
        **changes,
    )


def _ended(task: Task, now_ms: int, status: TaskStatus, **changes: Any) -> Task:
    """Final: nothing is leased, asked or waited for any more, and it is fixed when the task goes."""
    return _moved(
        task,
        now_ms,
        now_ms,
        status=status,
        lease=None,
        inputs={},
        return_by_ms=0,
        expires_ms=max(task.expires_ms, _expiry_ms(task, now_ms)),
        **changes,
    )


def _failed(task: Task, now_ms: int, kind: FailureKind, message: str) -> Task:
    failure = Failure(kind=kind, message=message)
    return _ended(task, now_ms, TaskStatus.FAILED, failure=failure, status_message=message)


def _used_up(task: Task, now_ms: int, what: str) -> Task:
    tries = "once" if task.attempts == 1 else f"{task.attempts} times"
    return _failed(task, now_ms, FailureKind.ATTEMPTS, f"The task was tried {tries} without an end: {what}.")


def _answered(
    task: Task, answers: Mapping[str, JournalEntry], now_ms: int, limits: Limits | None = None
) -> Task:
    """Answers leave the open questions; the last one lets the tool go on. Defaults have no limit to meet."""
    noted = _journaled(task, tuple(answers.values()), limits)
    open_inputs = {key: asked for key, asked in task.inputs.items() if key not in answers}
    if open_inputs:
        deadline_ms = min(asked.deadline_ms for asked in open_inputs.values())
        return _moved(noted, now_ms, deadline_ms, inputs=open_inputs)
    return _waiting(_pending(noted, now_ms, 0, inputs={}, status_message=None), Wait.QUEUED)


def _waiting(task: Task, waits: Wait) -> Task:
    """The task with what it waits for, and a status message that says so; a better one of its own stays."""
    if waits is Wait.QUEUED and task.waits is None and task.status_message is not None:
        return task
    return replace(task, waits=waits, status_message=_wait_message(waits, task))


def _wait_message(waits: Wait, task: Task | Create) -> str:
    said = _WAITS_FOR_TURN if waits is Wait.SLOT and task.takes_turns else _WAITS[waits]
    return said.format(tool=task.tool, queue=task.queue)


def _journaled(task: Task, entries: Iterable[JournalEntry], limits: Limits | None) -> Task:
    if not (entries := tuple(entries)):
        return task
    length, added = task.journal_length + len(entries), sum(size(entry.value) for entry in entries)
    total = task.journal_bytes + added
    if limits is not None and length > limits.journal_entries:
        raise errors.LimitExceeded("journal", maximum=limits.journal_entries, actual=length, unit="entries")
    if limits is not None and total > limits.journal_bytes:
        raise errors.LimitExceeded("journal", maximum=limits.journal_bytes, actual=total, unit="bytes")
    stored_bytes = task.stored_bytes + added
    return replace(task, journal_length=length, journal_bytes=total, stored_bytes=stored_bytes)


def _logged(before: Task, after: Task, event: Event, now_ms: int, actor: str = "") -> Applied:
    line = _line(before.phase, after, event.token, actor or event.actor, now_ms)
    return Applied(task=after, log=(line,))


def _line(source: Phase | None, after: Task, token: str, actor: str, at_ms: int) -> LogEntry:
    return LogEntry(
        revision=after.revision, source=source, target=after.phase, token=token, actor=actor, at_ms=at_ms
    )


def _message(text: str | None, limits: Limits) -> str | None:
    return None if text is None else truncate(text, limits.status_message_bytes)


def _kept(exception: ToolException | None, limits: Limits) -> ToolException | None:
    """An exception as far as there is room for it; it is never a reason to refuse an event."""
    return exception and replace(
        exception,
        type=truncate(exception.type, limits.status_message_bytes),
        message=truncate(exception.message, limits.status_message_bytes),
        traceback=truncate_middle(exception.traceback, limits.traceback_bytes),
    )


def _invalid(task: Task, event: Event, reason: str) -> errors.InvalidTransition:
    return errors.InvalidTransition(task.task_id, task.phase, type(event).__name__, reason)


def _find(log: Sequence[LogEntry], token: str) -> LogEntry | None:
    for entry in reversed(log):
        if entry.token == token:
            return entry
    return None
