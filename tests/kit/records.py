"""Keys for what is stored, and a record in which every field that can be sealed holds the same words."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from tasks_service.crypto.envelope import EncryptionKey, Envelope, Mode
from tasks_service.domain.events import (
    AnswerInput,
    Checkpoint,
    Claim,
    CompleteWithResult,
    FailWithError,
    Question,
    RequestInput,
)
from tasks_service.domain.task import (
    EntryKind,
    Failure,
    FailureKind,
    Identity,
    JournalEntry,
    JsonText,
    Owner,
    Progress,
    Task,
    ToolException,
    new_token,
)
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import ALICE, creation

CANARY = "CANARY-5e1f"
"""Words that must not be found."""

SAID = JsonText(f'{{"said":"{CANARY}"}}')


def a_key(name: str) -> EncryptionKey:
    """The key of that name, always the same."""
    return EncryptionKey(name, sha256(name.encode()).digest())


def configured(*names: str) -> str:
    """Keys as `TASKS_ENCRYPTION_KEYS` has them."""
    return ",".join(f"{name}:{base64.b64encode(a_key(name).secret).decode()}" for name in names)


def ring(*names: str, mode: Mode = Mode.REQUIRED) -> Envelope:
    """The envelope of a process that has these keys."""
    return Envelope([a_key(name) for name in names], mode)


def store_of(url: str, envelope: Envelope, **options: Any) -> RedisTaskStore:
    """A store that encrypts so."""
    return RedisTaskStore(url, envelope=envelope, **options)


def parked(store: RedisTaskStore, owner: Owner = ALICE, **options: Any) -> Task:
    """A task that has done a step, says how far it is, and asks."""
    caller = Identity(issuer="local", subject=CANARY, claims={"email": CANARY})
    options = {"arguments": SAID, "caller": caller, "idempotency": "k", "request_digest": CANARY} | options
    task = store.create(creation(owner, **options)).task
    lease_id = new_token()
    store.claim(task.task_id, Claim(lease_id=lease_id, worker="w"))
    step = JournalEntry(kind=EntryKind.STEP, name=CANARY, digest="d", value=SAID)
    progress = Progress(current=1, total=2, message=CANARY)
    noted = Checkpoint(lease_id=lease_id, variables={CANARY: SAID}, progress=progress, step=step)
    store.commit(task.task_id, noted)
    asked = {"q": Question(request=SAID, default=SAID)}
    ask = RequestInput(lease_id=lease_id, inputs=asked, message=CANARY, journal_length=1)
    return store.commit(task.task_id, ask)


def ended(store: RedisTaskStore, owner: Owner = ALICE, **options: Any) -> tuple[Task, Task]:
    """Two tasks whose records have every field that there is between them: one completed, one failed."""
    raised = ToolException(type="E", message=CANARY, traceback=CANARY)
    tasks = []
    for _ in range(2):
        task = parked(store, owner, **options, idempotency=new_token())
        store.apply(owner, task.task_id, AnswerInput(answers={"q": SAID}))
        lease_id = new_token()
        claimed = store.claim(task.task_id, Claim(lease_id=lease_id, worker="w"))
        assert (claimed.arguments, len(claimed.journal)) == (SAID, 2)
        tasks.append((task, lease_id))
    (one, lease), (other, other_lease) = tasks
    done = CompleteWithResult(lease_id=lease, result=SAID, message=CANARY, exception=raised, journal_length=2)
    failure = Failure(kind=FailureKind.AUTHOR, message=CANARY, code=1, data=SAID)
    failed = FailWithError(lease_id=other_lease, failure=failure, exception=raised, journal_length=2)
    return store.commit(one.task_id, done), store.commit(other.task_id, failed)


def everything(client: Any) -> Iterator[str]:
    """Every text that a Redis holds, with the names of its keys."""
    readers = {
        "hash": lambda key: [part for pair in client.hgetall(key).items() for part in pair],
        "string": lambda key: [client.get(key)],
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1),
    }
    for key in client.scan_iter():
        yield key
        yield from readers[client.type(key)](key)
