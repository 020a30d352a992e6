"""Whether Redis keeps what it acknowledged when its process is killed, as `appendfsync` says."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tasks_service.domain.errors import StoreUnavailable, TaskNotFound
from tasks_service.domain.events import Claim, CompleteWithResult, Create, Release, WorkerEvent
from tasks_service.domain.task import JsonText, TaskRecord, new_token
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import creation
from tests.kit.forgetting import ForgetfulServer
from tests.kit.history import Asked, ClientLog, Outcome

pytestmark = pytest.mark.faults

ACKNOWLEDGED = int(os.environ.get("TASKS_TEST_ACKNOWLEDGED", "4000"))
KILLS = 5
CLIENTS = 6
SMALL = JsonText('{"content":[]}')
LARGE = JsonText('{"content":["' + "x" * 65_536 + '"]}')
"""Enough to keep the disk busy: while it writes out a second, Redis postpones the next writes."""


class Load:
    """Clients that take tasks through their lives until Redis is gone, and write down what they were told."""

    def __init__(self, url: str, result: JsonText) -> None:
        self._result = result
        self.asked: list[Asked] = []
        self._store = RedisTaskStore(url, deadline=0.2)
        self._threads = [threading.Thread(target=self._live) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    @property
    def acknowledged(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.outcome is Outcome.OK]

    def close(self) -> None:
        """Wait until everybody has noticed that Redis is gone."""
        for thread in self._threads:
            thread.join()
        self._store.close()

    def _live(self) -> None:
        while self._one_life():
            """And the next."""

    def _one_life(self) -> bool:
        create, (first, second) = creation(), (new_token(), new_token())
        return (
            self._tell(create)
            and self._take(create.task_id, first)
            and self._commit(create.task_id, Release(lease_id=first))
            and self._take(create.task_id, second)
            and self._commit(create.task_id, CompleteWithResult(lease_id=second, result=self._result))
        )

    def _tell(self, event: Create) -> bool:
        until_ms = event.policy.ttl_ms + time.time_ns() // 1_000_000
        return self._ask(
            event.task_id,
            "Create",
            event.token,
            lambda: self._store.create(event).task.revision,
            until_ms=until_ms,
        )

    def _take(self, task_id: str, lease_id: str) -> bool:
        event = Claim(lease_id=lease_id, worker="here")
        return self._ask(
            task_id,
            "Claim",
            event.token,
            lambda: self._store.claim(task_id, event).task.revision,
            lease_id=lease_id,
        )

    def _commit(self, task_id: str, event: WorkerEvent) -> bool:
        return self._ask(
            task_id,
            type(event).__name__,
            event.token,
            lambda: self._store.commit(task_id, event).revision,
            lease_id=event.lease_id,
        )

    def _ask(
        self,
        task_id: str,
        kind: str,
        token: str,
        act: Callable[[], int],
        *,
        lease_id: str | None = None,
        until_ms: int = 0,
    ) -> bool:
        began_ns, revision = time.monotonic_ns(), None
        try:
            revision = act()
        except StoreUnavailable:
            """Nobody knows."""
        self.asked.append(
            Asked(
                task_id=task_id,
                kind=kind,
                token=token,
                outcome=Outcome.UNKNOWN if revision is None else Outcome.OK,
                began_ns=began_ns,
                ended_ns=time.monotonic_ns(),
                revision=revision,
                lease_id=lease_id,
                until_ms=until_ms,
            )
        )
        return revision is not None


class Loss(NamedTuple):
    """What a killed Redis had acknowledged and did not keep.

    Attributes:
        acknowledged: Transitions that were acknowledged before it died.
        lost: Those of them that are gone.
        window: Seconds before its death in which all of these were acknowledged.
    """

    acknowledged: int
    lost: int
    window: float


@contextmanager
def redis_of(appendfsync: str) -> Iterator[ForgetfulServer]:
    server = ForgetfulServer(appendfsync=appendfsync)
    yield server
    server.close()


def kill_under_load(server: ForgetfulServer, enough: int, result: JsonText) -> tuple[Load, int]:
    """Let clients work until enough is acknowledged, then kill Redis and start it again; and when it died."""
    load = Load(server.url, result)
    while len(load.acknowledged) < enough:
        time.sleep(0.02)
    killed_ns = time.monotonic_ns()
    server.kill()
    load.close()
    server.start()
    return load, killed_ns


def stored(url: str, task_ids: set[str]) -> dict[str, TaskRecord]:
    store, found = RedisTaskStore(url), {}
    for task_id in task_ids:
        try:
            found[task_id] = store.inspect(task_id)
        except TaskNotFound:
            continue
    store.close()
    return found


def test_with_always_a_killed_redis_has_lost_nothing_that_it_acknowledged(
    measured: Callable[[str, str], None],
) -> None:
    everything = ClientLog(now_ms=time.time_ns() // 1_000_000)
    with redis_of("always") as server:
        for _ in range(KILLS):
            load, _ = kill_under_load(server, -(-ACKNOWLEDGED // KILLS), SMALL)
            everything.asked += load.asked
            assert not (found := audit(server.url, everything)), told(found)
    kept = sum(asked.outcome is Outcome.OK for asked in everything.asked)
    assert kept >= ACKNOWLEDGED
    measured("R9", f"appendfsync always: {KILLS} SIGKILLs, {kept} acknowledged transitions, 0 lost")


def test_with_everysec_a_killed_redis_has_lost_the_last_moment_and_nothing_before_or_between(
    measured: Callable[[str, str], None],
) -> None:
    losses = []
    with redis_of("everysec") as server:
        for _ in range(KILLS):
            load, killed_ns = kill_under_load(server, -(-2 * ACKNOWLEDGED // KILLS), LARGE)
            losses.append(_loss(server.url, load.acknowledged, killed_ns))
            assert not (found := audit(server.url)), told(found)
    window = max(loss.window for loss in losses)
    assert window <= 2.0
    total, lost = sum(loss.acknowledged for loss in losses), sum(loss.lost for loss in losses)
    measured(
        "R9",
        f"appendfsync everysec: {KILLS} SIGKILLs, {total} acknowledged transitions, {lost} lost, "
        f"all acknowledged in the last {window * 1000:.0f} ms",
    )


def _loss(url: str, acknowledged: list[Asked], killed_ns: int) -> Loss:
    """What is gone; it must be the end of the history, without a gap."""
    records = stored(url, {asked.task_id for asked in acknowledged})
    tokens = {line.token for record in records.values() for line in record.log}
    lost = [asked for asked in acknowledged if asked.token not in tokens]
    if not lost:
        return Loss(len(acknowledged), 0, 0.0)
    first_ns = min(asked.ended_ns for asked in lost)
    kept = [asked for asked in acknowledged if asked.token in tokens and asked.began_ns > first_ns]
    assert not kept, f"{len(kept)} were kept that began after one that was lost had ended"
    return Loss(len(acknowledged), len(lost), max(killed_ns - first_ns, 0) / 1e9)
