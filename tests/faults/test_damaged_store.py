"""A store in which one thing is damaged: no sweep and no command fails over it, and a repair mends it.

`make test` takes a sample of `damaging.Subject.damages`; `make hostile` takes all, on all cores.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tasks_service.cli import doctor
from tests.kit.servers import RedisServer

from .damaging import Damage, Subject

SAMPLE = 30
SEED = int(os.environ.get("TASKS_TEST_SEED", "0"))
Measured = Callable[[str, str], None]


def sample(damages: list[Damage], number: int) -> list[Damage]:
    """So many of them, of as many kinds."""
    shuffled = random.Random(SEED).sample(damages, len(damages))
    return list({damage.kind: damage for damage in shuffled}.values())[:number]


def tried(url: str, share: int, shares: int, number: int | None = None) -> tuple[int, list[str]]:
    """Try a share of all damages, or of a sample of them: how many those were, and what went wrong."""
    subject = Subject(url)
    try:
        damages = subject.damages()
        mine = (damages if number is None else sample(damages, number))[share::shares]
        return len(mine), [wrong for damage in mine if (wrong := subject.trial(damage))]
    finally:
        subject.close()


def be_quick() -> None:
    """No worker is there that would answer; what is damaged is told by the dozen."""
    doctor.ANSWER_SECONDS = 0.001
    logging.disable(logging.CRITICAL)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    seconds = doctor.ANSWER_SECONDS
    be_quick()
    yield
    doctor.ANSWER_SECONDS = seconds
    logging.disable(logging.NOTSET)


def test_whatever_is_damaged_no_sweep_or_command_fails_and_a_repair_mends_it(measured: Measured) -> None:
    server = RedisServer()
    number, wrong = tried(server.url, 0, 1, number=SAMPLE)
    server.close()
    assert not wrong, "\n\n".join(wrong)
    measured("C11", f"{number} damages, a sample: no sweep or command failed, each was mended")


@pytest.mark.hostile
@pytest.mark.timeout(3_600)
def test_every_damage_is_survived_and_mended(measured: Measured) -> None:
    shares = os.cpu_count() or 1
    servers = [RedisServer() for _ in range(shares)]
    with ProcessPoolExecutor(shares, mp_context=get_context("spawn"), initializer=be_quick) as processes:
        begun = [processes.submit(tried, server.url, share, shares) for share, server in enumerate(servers)]
        ended = [share.result() for share in begun]
    for server in servers:
        server.close()
    wrong = [what for _, found in ended for what in found]
    assert not wrong, "\n\n".join(wrong)
    number = sum(number for number, _ in ended)
    measured("C11", f"{number} damages, all that are known: no sweep or command failed, each was mended")
