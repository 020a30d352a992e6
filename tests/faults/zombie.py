"""A process that holds tasks, is stopped past its lease, and writes when it wakes up."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection

from tasks_service.domain.errors import LeaseLost
from tasks_service.domain.events import (
    Checkpoint,
    Claim,
    CompleteWithResult,
    FailWithError,
    Question,
    Release,
    Renew,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from tasks_service.domain.task import EntryKind, Failure, FailureKind, JournalEntry, JsonText, new_token
from tasks_service.store.redis import RedisTaskStore

ZOMBIES = JsonText('"of a zombie"')


def haunt(url: str, pipe: Connection) -> None:
    """Claim each task that comes through the pipe, hold it until stopped, then try every write there is.

    What comes is the id of a task and whether to be stopped while holding it (`held`) or inside the commit of
    its result (`completing`, for which the test has armed a point of failure). What goes back is the lease
    id, when the task is held, and at the end the kinds of writes that were accepted after the wake-up.
    """
    store = RedisTaskStore(url)
    while (order := pipe.recv()) is not None:
        task_id, moment = order
        lease_id = new_token()
        store.claim(task_id, Claim(lease_id=lease_id, worker="zombie"))
        pipe.send(lease_id)
        if moment == "held":
            _hold(store, task_id, lease_id)
        pipe.send([type(event).__name__ for event in writes(lease_id) if _accepted(store, task_id, event)])
    store.close()


def writes(lease_id: str) -> Iterator[WorkerEvent]:
    """Every write that the holder of a lease can make; the completion first."""
    done = CompleteWithResult(lease_id=lease_id, result=ZOMBIES)
    yield done
    yield FailWithError(lease_id=lease_id, failure=Failure(kind=FailureKind.AUTHOR, message="zombie"))
    yield Checkpoint(lease_id=lease_id, variables={"by": ZOMBIES})
    step = JournalEntry(kind=EntryKind.STEP, name="s", digest="d", value=ZOMBIES)
    yield Checkpoint(lease_id=lease_id, step=step)
    yield RequestInput(lease_id=lease_id, inputs={"k": Question(request=JsonText("{}"))})
    yield Sleep(lease_id=lease_id, delay_ms=0)
    yield Retry(lease_id=lease_id, delay_ms=0, otherwise=done)
    yield Release(lease_id=lease_id)
    yield Renew(lease_id=lease_id)


def _hold(store: RedisTaskStore, task_id: str, lease_id: str) -> None:
    """Be alive, until a renewal finds that it is too late."""
    while _accepted(store, task_id, Renew(lease_id=lease_id)):
        pass


def _accepted(store: RedisTaskStore, task_id: str, event: WorkerEvent) -> bool:
    try:
        store.commit(task_id, event)
    except LeaseLost:
        return False
    return True
