"""The faces of the registry on Redis: blocking for workers, sweeps and operators, asyncio for front ends."""

from __future__ import annotations

from typing import Protocol, TypeVar

from ..registry import AnnouncedTools, RegistryView, WorkerAnnouncement
from .registry import RegistryPrograms
from .transaction import Program

T = TypeVar("T")


class Runs(Protocol):
    """A blocking store, as what drives a program on one of its connections."""

    def run(self, program: Program[T]) -> T:
        """Drive a program to its end."""


class AsyncRuns(Protocol):
    """An asyncio store, as what drives a program on one of its connections."""

    async def run(self, program: Program[T]) -> T:
        """Drive a program to its end."""


class RedisRegistry:
    """`WorkerRegistry` and `RegistryReader` on Redis, blocking.

    Args:
        store: Drives programs.
        programs: Say what each operation reads and writes.
    """

    def __init__(self, store: Runs, programs: RegistryPrograms) -> None:
        self._store, self._programs = store, programs

    def announce(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> WorkerAnnouncement:
        """See `WorkerRegistry.announce`."""
        return self._store.run(self._programs.announce(worker, tools))

    def refresh(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> bool:
        """See `WorkerRegistry.refresh`."""
        return self._store.run(self._programs.refresh(worker, tools))

    def withdraw(self, worker: WorkerAnnouncement) -> None:
        """See `WorkerRegistry.withdraw`."""
        self._store.run(self._programs.withdraw(worker))

    def forget_lost(self) -> int:
        """See `WorkerRegistry.forget_lost`."""
        return self._store.run(self._programs.forget_lost())

    def services(self) -> list[str]:
        """See `RegistryReader.services`."""
        return self._store.run(self._programs.services())

    def read(self, service: str, known: RegistryView | None = None) -> RegistryView:
        """See `RegistryReader.read`."""
        return self._store.run(self._programs.read(service, known))


class AsyncRedisRegistry:
    """`AsyncRegistryReader` on Redis; arguments as of `RedisRegistry`."""

    def __init__(self, store: AsyncRuns, programs: RegistryPrograms) -> None:
        self._store, self._programs = store, programs

    async def services(self) -> list[str]:
        """See `RegistryReader.services`."""
        return await self._store.run(self._programs.services())

    async def read(self, service: str, known: RegistryView | None = None) -> RegistryView:
        """See `RegistryReader.read`."""
        return await self._store.run(self._programs.read(service, known))
