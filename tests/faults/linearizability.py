"""Processes that do random things to few tasks through a proxy that cuts connections, and the check after.

`python -m tests.faults.linearizability` runs it once, against the package that is imported there; the mutants
do that. Everything is drawn from a seed, which is printed, but how processes interleave is the machine's.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from tasks_service.domain.decide import kept_until_ms
from tasks_service.domain.errors import StoreUnavailable, TasksServiceError
from tasks_service.domain.events import (
    AnswerInput,
    Cancel,
    Checkpoint,
    Claim,
    CompleteWithResult,
    Create,
    Event,
    FailWithError,
    GrantSlot,
    Question,
    Reap,
    Release,
    Renew,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from tasks_service.domain.limits import OTHER_QUEUES, Limits
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import Failure, FailureKind, JsonText, Owner, Phase, Policy, new_token
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import Violation, audit, told
from tests.kit.history import Asked, ClientLog, Outcome
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.servers import RedisServer
from tests.kit.stored import ids_of

POLICY = Policy(lease_ms=20, max_attempts=2)
LIMITS = Limits(log_entries=4_096)
"""A log that is never cut is a witness of the whole life."""

OPERATIONS_PER_TASK = 20
HOT = 2
"""Tasks that all processes work on at a time."""

SHARED = 4
"""Successive tasks that are of one owner, and wait for each other where its slots are limited."""


def owner_of(number: int) -> Owner:
    """Whose the task of that number is."""
    return Owner(f"owner{number // SHARED}")


CUT_SHARE = 0.12
"""Share of transactions that are cut, on each side."""

SENSE = 0.8
"""Share of times that a process does what makes sense after what it has just done; else, anything."""

ABANDONED = 0.1
"""Share of claims that their process forgets, so that only a reaper can bring the task back."""

FOLLOWED_BY = {
    "Create": "claim",
    "Claim": "worker",
    "Renew": "worker",
    "Checkpoint": "worker",
    "RequestInput": "answer",
    "AnswerInput": "claim",
    "Sleep": "claim",
    "Retry": "claim",
    "Release": "claim",
    "Reap": "claim",
}
FOREVER_MS = 10**15
KEYS = "abcd"
TRIES = 40
FOUND = 10
"""Exit code when something was wrong, apart from 1, which a crash gives."""

FAILURE = Failure(kind=FailureKind.AUTHOR, message="no", code=-1)
ANSWER = JsonText("1")


class Wanderer:
    """One client that does random things, and writes down what it asked for and was answered."""

    def __init__(self, url: str, seed: int, task_ids: list[str], limits: Limits) -> None:
        # Every other one gives up at the first failure, so that its own repetition has to settle the outcome.
        self._store = RedisTaskStore(url, limits=limits, deadline=0.2 if seed % 2 else 0.001)
        self._random = random.Random(seed)
        self._task_ids = task_ids
        self._owners = {task_id: owner_of(number) for number, task_id in enumerate(task_ids)}
        self._leases: list[tuple[str, str]] = []
        self._follow: tuple[str, str] | None = None
        self.log: list[Asked] = []

    def wander(self, operations: int) -> None:
        """Do that many things, from the first task to the last."""
        for number in range(operations):
            first = number * len(self._task_ids) // operations
            task_id = self._random.choice(self._task_ids[first : first + HOT])
            self._do(task_id)
        self._store.close()

    def _do(self, task_id: str) -> None:
        kind = self._random.choices(
            ["create", "claim", "worker", "get", "answer", "cancel", "reap"], [2, 6, 12, 3, 3, 1, 1]
        )[0]
        if self._follow is not None and self._random.random() < SENSE:
            kind, task_id = self._follow
        self._follow, owner = None, self._owners[task_id]
        if kind == "wait and reap":
            time.sleep(POLICY.lease_ms / 1000)
            kind = "reap"
        if kind == "get":
            self._ask(task_id, "get", "", lambda: self._store.get(owner, task_id).task)
        elif kind == "create":
            create = Create(
                task_id=task_id, owner=owner, tool="t", queue="q", arguments=ANSWER, policy=POLICY
            )
            self._send(task_id, create, lambda: self._store.create(create).task)
        elif kind == "claim":
            claim = Claim(lease_id=new_token(), worker="w")
            self._send(task_id, claim, lambda: self._store.claim(task_id, claim).task, claim.lease_id)
            if self.log[-1].outcome is Outcome.OK:
                self._leases = [*self._leases[-5:], (task_id, claim.lease_id)]
        elif kind == "reap":
            reap = Reap()
            self._send(task_id, reap, lambda: self._store.apply_sweep(task_id, reap))
        elif kind == "worker" and self._leases:
            recent = self._leases[-1:] if self._random.random() < 0.7 else self._leases
            held_task, lease_id = self._random.choice(recent)
            event = self._worker_event(lease_id)
            self._send(held_task, event, lambda: self._store.commit(held_task, event), lease_id)
        else:
            act = Cancel() if kind == "cancel" else AnswerInput(answers=dict.fromkeys(KEYS, ANSWER))
            self._send(task_id, act, lambda: self._store.apply(owner, task_id, act))

    def _worker_event(self, lease_id: str) -> WorkerEvent:
        fail = FailWithError(lease_id=lease_id, failure=FAILURE)
        asked = {key: Question(request=ANSWER) for key in self._random.sample(KEYS, 1)}
        lost = self._random.random() < 0.5
        events: list[WorkerEvent] = [
            Renew(lease_id=lease_id),
            Checkpoint(lease_id=lease_id, variables={"n": ANSWER}),
            RequestInput(lease_id=lease_id, inputs=asked),
            Sleep(lease_id=lease_id, delay_ms=0),
            Retry(lease_id=lease_id, delay_ms=0, otherwise=fail),
            Release(lease_id=lease_id, lost=lost),
            CompleteWithResult(lease_id=lease_id, result=ANSWER),
            fail,
        ]
        return self._random.choices(events, [2, 2, 4, 5, 4, 8, 1, 1])[0]

    def _send(
        self, task_id: str, event: Event, action: Callable[[], Any], lease_id: str | None = None
    ) -> None:
        self._ask(task_id, type(event).__name__, event.token, action, lease_id)

    def _ask(
        self, task_id: str, kind: str, token: str, action: Callable[[], Any], lease_id: str | None = None
    ) -> None:
        began_ns, outcome, task, tries = time.monotonic_ns(), Outcome.UNKNOWN, None, 0
        while outcome is Outcome.UNKNOWN and tries < TRIES:
            tries += 1
            try:
                task = action()
                outcome = Outcome.OK
            except StoreUnavailable:
                continue
            except TasksServiceError:
                outcome = Outcome.REFUSED
        if outcome is Outcome.OK and kind == "Claim" and self._random.random() < ABANDONED:
            self._follow = "wait and reap", task_id
        elif outcome is Outcome.OK and kind in FOLLOWED_BY:
            self._follow = FOLLOWED_BY[kind], task_id
        self.log.append(
            Asked(
                task_id=task_id,
                kind=kind,
                token=token,
                outcome=outcome,
                began_ns=began_ns,
                ended_ns=time.monotonic_ns(),
                revision=None if task is None else task.revision,
                lease_id=lease_id,
                until_ms=0 if task is None else kept_until_ms(task),
                attempts=tries,
            )
        )


@dataclass
class Ran:
    """What a run did, and what was wrong."""

    asked: list[Asked]
    cuts: int
    seconds: float
    violations: list[Violation]

    def summary(self, seed: int) -> str:
        """One line for a report."""
        acknowledged = sum(asked.outcome is Outcome.OK for asked in self.asked)
        repeated = sum(asked.attempts > 1 for asked in self.asked)
        unsettled = sum(asked.outcome is Outcome.UNKNOWN for asked in self.asked)
        return (
            f"seed {seed}: {len(self.asked)} operations, {acknowledged} acknowledged, {self.cuts} cuts, "
            f"{repeated} repeated after an unknown outcome, {unsettled} unsettled, "
            f"{len(self.violations)} violations, {self.seconds:.1f} s"
        )


def run(server: RedisServer, *, operations: int, processes: int, seed: int, slots: int | None = None) -> Ran:
    """Let processes loose on an empty server, and audit what they leave.

    Args:
        server: A real Redis; emptied first.
        operations: Of all processes together.
        processes: How many.
        seed: For what they do and where connections are cut.
        slots: How many tasks of an owner may run at a time; None: as many as will.
    """
    limits = LIMITS if slots is None else replace(LIMITS, running_per_owner={OTHER_QUEUES: slots})
    with server.client() as client:
        client.flushall()
    draw, cuts = random.Random(seed), [0]

    def judge(packet: bytes) -> Verdict:
        if b"\r\nEXEC\r\n" not in packet or (lot := draw.random()) > 2 * CUT_SHARE:
            return Verdict.PASS
        cuts[0] += 1
        return Verdict.CUT_BEFORE if lot < CUT_SHARE else Verdict.CUT_AFTER

    proxy = CuttingProxy(server.port)
    proxy.judge = judge
    task_ids = [new_task_id(owner_of(number)) for number in range(operations // OPERATIONS_PER_TASK + HOT)]
    context = multiprocessing.get_context("spawn")
    began = time.monotonic()
    with context.Pool(processes) as pool:
        share = operations // processes
        jobs = [(proxy.url, seed * 1000 + number, task_ids, share, limits) for number in range(processes)]
        asked = [one for log in pool.starmap(_wander, jobs) for one in log]
        pool.close()
        pool.join()
    seconds = time.monotonic() - began
    proxy.close()
    with server.client() as client:
        now_ms = int(client.time()[0]) * 1000
    violations = audit(server.url, ClientLog(asked=asked, now_ms=now_ms), limits=limits)
    if slots is not None:
        violations += crowding(server.url, limits, slots)
    return Ran(asked, cuts[0], seconds, violations)


def crowding(url: str, limits: Limits, slots: int) -> list[Violation]:
    """Owners of whom more ran at a time than may, and those who wait beside an empty slot after a sweep."""
    store = RedisTaskStore(url, limits=limits)
    steps: dict[Owner, list[tuple[int, int]]] = defaultdict(list)
    for record in map(store.inspect, ids_of(store)):
        for line, after in pairwise([*record.log, None]):
            if line is not None and line.target is Phase.RUNNING:
                steps[record.task.owner] += [(line.at_ms, +1), (after.at_ms if after else FOREVER_MS, -1)]
    most = {owner: max(accumulate(step for _, step in sorted(taken))) for owner, taken in steps.items()}
    found = [
        Violation("I9", "", f"{n} tasks of {owner} ran at a time") for owner, n in most.items() if n > slots
    ]
    for task_id in store.waiting_for_slots(limit=1_000):
        with suppress(TasksServiceError):
            store.apply_sweep(task_id, GrantSlot())
    found += [
        Violation("I9", one, "it waits beside an empty slot") for one in store.waiting_for_slots(limit=1_000)
    ]
    store.close()
    return found


def _wander(url: str, seed: int, task_ids: list[str], operations: int, limits: Limits) -> list[Asked]:
    wanderer = Wanderer(url, seed, task_ids, limits)
    wanderer.wander(operations)
    return wanderer.log


def main() -> int:
    """Run once, for so many operations and with so many slots; the exit code says whether it went wrong."""
    seed = int(os.environ.get("TASKS_TEST_SEED", "1"))
    server = RedisServer()
    try:
        operations, slots = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
        ran = run(server, operations=operations, processes=3, seed=seed, slots=slots)
    finally:
        server.close()
    print(ran.summary(seed))
    print(told(ran.violations[:5]))
    return FOUND if ran.violations else 0


if __name__ == "__main__":
    sys.exit(main())
