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
    """Turns a pending task into a broker message; `dispatch` implements it."""

    @property
    def messages(self) -> str | None:
        """What is in front of the keys that `pushes` names; None if the broker is elsewhere."""

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """Messages to be written in the same transaction as the task; empty if the broker is elsewhere."""

    def committed(self, task: Task) -> None:
        """The task is stored and pending, due now: publish, if `pushes` did not. Returns at once."""


class NoOutbox:
    """An outbox that sends nothing: the task waits for a sweep, or for a test."""

    messages = None

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """Nothing."""
        return ()

    def committed(self, task: Task) -> None:
        """Nothing."""
