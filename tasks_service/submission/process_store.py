"""The store of a process that submits tasks or waits for them: opened at first use, and anew after a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from ..crypto.keys import Fingerprints
from ..store.changes import Change
from ..store.clients import ClientStore
from ..store.findings import Finding
from .change_listener import HEAL, ChangeListener, Wake


class FollowedStore(ClientStore, Protocol):
    """What is needed of a store."""

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """See `RedisTaskStore.changes`."""

    def check_secrets(self, secrets: Fingerprints) -> list[Finding]:
        """See `RedisTaskStore.check_secrets`."""


IN_PLACE = 0.3
"""Seconds that a tool waits for another task before it gives its worker back."""

_standing_in: ContextVar[FollowedStore | None] = ContextVar("tasks_service_store_standing_in", default=None)


@contextmanager
def standing_in(store: FollowedStore) -> Iterator[None]:
    """Let what the code here submits go to another store; for `tasks_service.testing`.

    Args:
        store: A store in which tasks make no progress while somebody waits for them.
    """
    token = _standing_in.set(store)
    try:
        yield
    finally:
        _standing_in.reset(token)


class _NothingChanges(ChangeListener):
    """Starts no thread, where no task makes progress while somebody waits for it."""

    @contextmanager
    def listening(self, name: str, wake: Wake) -> Iterator[None]:
        """See `ChangeListener.listening`."""
        yield


class ProcessStore:
    """The store of this process, and what listens to it.

    A server that forks its workers (gunicorn with `--preload`, a prefork parent) may use it before the fork:
    each child begins with connections and a listener of its own.

    Args:
        open_store: Opens the store; connects to nothing yet.
    """

    def __init__(self, open_store: Callable[[], FollowedStore]) -> None:
        self._open_store = open_store
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Forget what a fork does not survive: connections, threads and locks."""
        self._lock = threading.Lock()
        self._store: FollowedStore | None = None
        self._listener: ChangeListener | None = None

    @property
    def store(self) -> FollowedStore:
        """The store.

        Raises:
            ConfigurationError: None is configured.
        """
        if (instead := _standing_in.get()) is not None:
            return instead
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    @property
    def in_place(self) -> float:
        """Seconds that a tool waits for another task before it gives its worker back."""
        return IN_PLACE if _standing_in.get() is None else 0

    @property
    def listener(self) -> ChangeListener:
        """What wakes those that wait for tasks; raises as `store` does."""
        store = self.store
        if _standing_in.get() is not None:
            return _NothingChanges(lambda: iter(()))
        with self._lock:
            if self._listener is None:
                self._listener = ChangeListener(lambda: store.changes(poll=HEAL))
            return self._listener
