"""What tests of a store put into it, and the clock that they move."""

from __future__ import annotations

from typing import Any

from tasks_service.domain.events import Create
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import JsonText, Owner, Policy, Task, TaskStatus
from tasks_service.store.outbox import Push

ALICE, BOB = Owner("alice"), Owner("bob")
RESULT = JsonText('{"content":[]}')


class Clock:
    """A clock that stands still until it is told to go on; far ahead, so that no backstop interferes."""

    def __init__(self) -> None:
        self.now_ms = 4_000_000_000_000

    def __call__(self, server_ms: int = 0) -> int:
        return self.now_ms

    def pass_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms


class RecordingOutbox:
    """Pushes the task's id to a list beside the tasks, where that can be; remembers what was committed."""

    messages = None
    KEY = "messages"

    def __init__(self, *, in_store: bool = True) -> None:
        self.sent: list[str] = []
        self._in_store = in_store

    def pushes(self, task: Task, now_ms: int) -> list[Push]:
        if not self._in_store:
            return []
        return [Push(self.KEY, f"{task.task_id} {task.claims} {now_ms}".encode())]

    def committed(self, task: Task) -> None:
        self.sent.append(task.task_id)


def creation(owner: Owner = ALICE, policy: Policy | None = None, **options: Any) -> Create:
    values: dict[str, Any] = {
        "task_id": new_task_id(owner),
        "owner": owner,
        "tool": "noop",
        "queue": "q",
        "arguments": JsonText('{"x":1}'),
        "policy": policy or Policy(),
    }
    return Create(**(values | options))


def completed(tool: str) -> Task:
    """A task of a tool that has completed."""
    return Task(
        task_id=new_task_id(ALICE),
        owner=ALICE,
        tool=tool,
        queue="q",
        policy=Policy(),
        status=TaskStatus.COMPLETED,
        revision=1,
        created_ms=1,
        updated_ms=1,
        due_ms=0,
        deadline_ms=0,
    )
