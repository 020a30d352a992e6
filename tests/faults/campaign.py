"""A campaign of strikes: every process at every point that it reaches, while clients of all kinds use it."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.kit.audit import told

from .chaos import KINDS, Campaign, finish
from .crowd import Client, PlainCaller, Progress, SessionCaller
from .points import Kind, Place, places
from .served import service_under_fault
from .striking import Striker

KILLS = int(os.environ.get("TASKS_TEST_KILLS", "5"))
"""How often a process is killed at each place."""

SEED = int(os.environ.get("TASKS_TEST_SEED", "0")) or secrets.randbelow(1_000_000) + 1
RARE = ("brief", "failing", "graceful", "lasting", "reporting", "reporting") * 2
"""What clients call more often than in chaos, so that no point waits long to be reached."""

SECONDS = float(os.environ.get("TASKS_TEST_SECONDS", "1500"))
"""How long a campaign may take until it says what it has not reached: much, for a busy machine."""

ELSEWHERE = [place for place in places() if place.point.startswith("Publication.")]
"""Reached only where the broker is another server than the store."""

SERVED = [place for place in places() if place.kind is not Kind.REPAIR and place not in ELSEWHERE]
"""Reached while the service runs as it does by default."""


def campaign(
    directory: Path, wanted: Mapping[Place, int], *, action: str, elsewhere: bool = False
) -> tuple[Striker, Campaign]:
    """Strike all that is wanted.

    Args:
        directory: For logs and armings.
        wanted: How often, by place.
        action: `kill` or `stop`.
        elsewhere: Whether the broker is apart from the store.

    Raises:
        AssertionError: Something was violated, or a place was not reached as often as is wanted.
    """
    # Beat asks children for a sweep more often than workers sweep by themselves, so that both do; and not all
    # slots are for one owner, so that tasks wait for their turn and are called.
    settings = {"TASKS_SWEEP_INTERVAL": "0.5", "TASKS_MAX_RUNNING_PER_OWNER": "6"}
    with service_under_fault(directory, failpoints=True, elsewhere=elsewhere, settings=settings) as service:
        progress = Progress(1_000_000, 1)
        crowd = [
            *(Client(service.ports, f"{SEED}.{n}", progress, [*KINDS, *RARE]) for n in range(4)),
            *(PlainCaller(service.ports, f"{SEED}.plain.{n}", progress) for n in range(3)),
            SessionCaller(service.ports, f"{SEED}.session", progress),
        ]
        striker = Striker(service, wanted, action=action, seed=SEED)
        for client in crowd:
            client.start()
        striker.strike(SECONDS, progress)
        progress.stop()
        result = finish(service, crowd, striker.counted(), striker.began)
    print(result.summary(SEED), told(result.violations), sep="\n")
    assert not result.violations, f"seed {SEED}; logs are in {directory}"
    assert not striker.missing, f"seed {SEED}: not reached often enough: {striker.missing}"
    return striker, result


def figures(striker: Striker, result: Campaign) -> str:
    """What a campaign has done, in a line."""
    least = min(Counter(strike.place for strike in striker.strikes).values())
    return (
        f"seed {SEED}: {len(striker.strikes)} strikes at {len(striker.wanted)} points x kinds of process "
        f"(each {least} times or more), {len(result.stories)} tasks, 0 violations, {result.seconds:.0f} s"
    )
