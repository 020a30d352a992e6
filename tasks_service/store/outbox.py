"""How a store hands a pending task to the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..domain.task import Task


class Push(NamedTuple):
    """A broker message for the same write as the record: LPUSH `payload` to `key`."""

    key: str
    payload: bytes


class Outbox(Protocol):
    """Makes the broker message of a pending task; `broker.dispatcher` implements it."""

    @property
    def messages(self) -> str | None:
        """The prefix of the keys that `pushes` names; None if the broker is not this Redis."""

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """Messages to write in the same transaction as the task; empty if the broker is not this Redis."""

    def committed(self, task: Task) -> None:
        """The task is stored, pending and due now: publish it, unless `pushes` has. Returns at once."""


class NoOutbox:
    """An outbox that sends nothing. Tasks wait for a sweep that has another one."""

    messages = None

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """Nothing."""
        return ()

    def committed(self, task: Task) -> None:
        """Nothing."""
