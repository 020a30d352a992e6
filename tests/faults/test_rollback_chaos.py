"""Redis goes back to an earlier truth, again and again, under a whole service and its clients."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.audit import Violation, audit, told
from tests.kit.forgetting import ForgetfulServer

from .chaos import finish
from .crowd import Client, Forgotten, Progress
from .served import BROKER_KEYS, service_under_fault

pytestmark = pytest.mark.faults

TASKS = int(os.environ.get("TASKS_TEST_ROLLED_BACK", "400"))
SEED = int(os.environ.get("TASKS_TEST_SEED", "0")) or secrets.randbelow(1_000_000) + 1
KINDS = (
    *("quick", "stepped", "asking", "retrying", "silent", "sleeping") * 2,
    *("failing", "lasting", "lengthy", "lengthy"),
)
"""What clients call: tasks that are kept, and whose handle is given out."""

RESTORED = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Seconds of writes that a restored file lacks."""
FAILED_OVER = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 2.0)
"""Seconds of writes that a replica had not received."""
BY_THE_CLOCK = 3.0
"""From so many seconds on, a file is cut at a second of its clock, as an operator would, not at a byte."""


class Oblivion:
    """Makes the Redis of a service forget, and looks at what it still has each time.

    Args:
        server: The Redis.
        forgotten: Where it is declared.
        progress: Lets more tasks begin while there is something to be forgotten.
    """

    def __init__(self, server: ForgetfulServer, forgotten: Forgotten, progress: Progress) -> None:
        self._server, self._forgotten, self._progress = server, forgotten, progress
        self.done: Counter[str] = Counter()
        self.found: list[Violation] = []

    def restore(self, seconds: float) -> None:
        """The file ends so many seconds ago, and everybody has seen what came after."""
        began, second, position = time.monotonic(), int(time.time()), self._server.position()
        self._progress.struck()
        time.sleep(seconds)
        if seconds < BY_THE_CLOCK:
            with self._forgotten.since(began):
                self._server.forget_since(position)
        else:
            with self._forgotten.since(began - 1):
                self._server.forget_back_to(second)
        self._look("restored")

    def fail_over(self, seconds: float) -> None:
        """The replica has not heard of the last seconds when the master dies."""
        self._server.replicate()
        began = time.monotonic()
        self._server.cut_off()
        self._progress.struck()
        time.sleep(seconds)
        with self._forgotten.since(began):
            self._server.fail_over()
        self._look("failed over")

    def _look(self, how: str) -> None:
        self.done[how] += 1
        with self._server.copy() as copy:
            self.found += audit(copy.url, beside=BROKER_KEYS)


@pytest.mark.timeout(600)
def test_whatever_redis_forgets_every_task_that_it_kept_comes_to_one_true_end(
    tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    began, draw, forgotten = time.monotonic(), random.Random(SEED), Forgotten()
    server = ForgetfulServer()
    progress = Progress(TASKS, len(RESTORED) + len(FAILED_OVER))
    oblivion = Oblivion(server, forgotten, progress)
    with service_under_fault(tmp_path, server=server) as service:
        crowd = [Client(service.ports, f"{SEED}.{n}", progress, KINDS, forgotten, 4) for n in range(6)]
        for client in crowd:
            client.start()
        for forget, seconds in _points(oblivion, draw):
            if not progress.wait_for_tasks():
                break
            time.sleep(draw.uniform(0.2, 0.8))
            forget(seconds)
        campaign = finish(service, crowd, oblivion.done, began)
        recorded_again = sum(worker.times_said("are recorded again") for worker in service.workers)
    forgot = sum((client.forgot for client in crowd), Counter())
    print(campaign.summary(SEED), told([*oblivion.found, *campaign.violations]), sep="\n")
    assert not oblivion.found, f"seed {SEED}: what Redis still had was not sound"
    assert not campaign.violations, f"seed {SEED}; logs are in {tmp_path}"
    assert campaign.faults.total() == len(RESTORED) + len(FAILED_OVER)
    assert forgot["handles"] and forgot["ends"], "nothing was forgotten that a client knew of"
    measured(
        "R8",
        f"{oblivion.done['restored']} files cut by 0.1 to 5 s, {oblivion.done['failed over']} failovers that "
        f"lost 0.1 to 2 s, {len(campaign.stories)} tasks in {campaign.seconds:.0f} s: {forgot['handles']} "
        f"handles and {forgot['ends']} ends forgotten, none of them older than what was cut; journals fixed "
        f"{recorded_again} times; 0 stuck, 0 second ends; {oblivion.done.total() + 1} audits, 0 violations",
    )


def _points(oblivion: Oblivion, draw: random.Random) -> list[tuple[Callable[[float], None], float]]:
    points = [(oblivion.restore, seconds) for seconds in RESTORED]
    points += [(oblivion.fail_over, seconds) for seconds in FAILED_OVER]
    return draw.sample(points, len(points))
