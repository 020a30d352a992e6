"""The registry in memory: for tests and for a single process, with the same rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..domain.task import new_token
from .registry import (
    LIFETIME_MS,
    AnnouncedTools,
    RegistryView,
    Remembered,
    WorkerAnnouncement,
    forgettable,
)


def wall_clock_ms() -> int:
    """Milliseconds since the epoch, by this machine."""
    return time.time_ns() // 1_000_000


@dataclass
class _Service:
    """What is kept of a service."""

    mark: str = ""
    workers: dict[str, tuple[WorkerAnnouncement, int]] = field(default_factory=dict)
    sets: dict[str, AnnouncedTools] = field(default_factory=dict)
    remembered: dict[str, Remembered] = field(default_factory=dict)


class MemoryRegistry:
    """`WorkerRegistry` and `RegistryReader` in memory, thread-safe.

    Args:
        clock: Milliseconds since the epoch; tests inject their own.
        changed: Called with the name of a service when its workers or tools have changed.
    """

    def __init__(
        self, *, clock: Callable[[], int] = wall_clock_ms, changed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._clock, self._changed = clock, changed
        self._lock = threading.RLock()
        self._services: dict[str, _Service] = {}

    def announce(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> WorkerAnnouncement:
        """See `WorkerRegistry.announce`."""
        with self._lock:
            service, now_ms = self._services.setdefault(worker.service, _Service()), self._clock()
            worker = replace(worker, since_ms=worker.since_ms or now_ms)
            self._keep(service, worker, tools, now_ms)
            self._wake(worker.service)
            return worker

    def refresh(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> bool:
        """See `WorkerRegistry.refresh`."""
        with self._lock:
            service, now_ms = self._services.get(worker.service), self._clock()
            if service is None or not _is_kept(service, worker, now_ms):
                return False
            self._keep(service, worker, tools, now_ms)
            return True

    def withdraw(self, worker: WorkerAnnouncement) -> None:
        """See `WorkerRegistry.withdraw`."""
        with self._lock:
            service = self._services.get(worker.service)
            if service is not None and _is_kept(service, worker):
                tools, now_ms = service.sets[worker.tools], self._clock()
                service.remembered[worker.tools] = Remembered.again(
                    service.remembered[worker.tools], worker, tools, now_ms
                )
                del service.workers[worker.node]
                self._wake(worker.service)

    def forget_lost(self) -> int:
        """See `WorkerRegistry.forget_lost`."""
        with self._lock:
            return sum(self._forget_lost(name, service) for name, service in self._services.items())

    def services(self) -> list[str]:
        """See `RegistryReader.services`."""
        with self._lock:
            return sorted(name for name, service in self._services.items() if service.remembered)

    def read(self, service: str, known: RegistryView | None = None) -> RegistryView:
        """See `RegistryReader.read`."""
        with self._lock:
            now_ms, kept = self._clock(), self._services.get(service)
            if kept is None:
                return RegistryView(service=service, now_ms=now_ms)
            workers = [worker for worker, until_ms in kept.workers.values() if until_ms > now_ms]
            return RegistryView(
                service=service,
                now_ms=now_ms,
                mark=f"{kept.mark}:{len(workers)}",
                workers=tuple(sorted(workers, key=lambda worker: worker.node)),
                sets=dict(kept.sets),
                remembered=dict(kept.remembered),
            )

    @staticmethod
    def _keep(service: _Service, worker: WorkerAnnouncement, tools: AnnouncedTools, now_ms: int) -> None:
        before = service.remembered.get(worker.tools)
        service.workers[worker.node] = (worker, now_ms + LIFETIME_MS)
        service.sets[worker.tools] = tools
        service.remembered[worker.tools] = Remembered.again(before, worker, tools, now_ms)

    def _forget_lost(self, name: str, service: _Service) -> int:
        now_ms = self._clock()
        lost = [node for node, (_, until_ms) in service.workers.items() if until_ms <= now_ms]
        for node in lost:
            del service.workers[node]
        old = forgettable(service.remembered, (kept[0] for kept in service.workers.values()), now_ms)
        for digest in old:
            del service.sets[digest], service.remembered[digest]
        if lost or old:
            self._wake(name)
        return len(lost) + len(old)

    def _wake(self, name: str) -> None:
        self._services[name].mark = new_token()
        self._changed(name)


def _is_kept(service: _Service, worker: WorkerAnnouncement, now_ms: int = 0) -> bool:
    """Whether a worker's announcement is there, and counts at that moment."""
    kept = service.workers.get(worker.node)
    return kept is not None and kept[0].instance == worker.instance and kept[1] > now_ms
