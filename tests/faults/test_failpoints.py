"""Every point at which a process may die is known, costs nothing, and loses nothing."""

from __future__ import annotations

import ast
import inspect
import os
import secrets
import subprocess
import sys
import timeit
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks_service.domain import events
from tasks_service.failpoints import VARIABLE, failpoint
from tests.support import quickest

from .audit import told
from .chaos import KINDS, Campaign, finish
from .crowd import Client, PlainCaller, Progress, SessionCaller
from .points import POINTS, SIDES, Kind, Place, places
from .served import service_under_fault
from .striking import Striker
from .warm import ROOT

KILLS = int(os.environ.get("TASKS_TEST_KILLS", "5"))
SEED = int(os.environ.get("TASKS_TEST_SEED", "0")) or secrets.randbelow(1_000_000) + 1
RARE = ("brief", "failing", "graceful", "lasting", "reporting", "reporting") * 2
"""What clients call more often than in chaos, so that no point waits long to be reached."""

SECONDS = float(os.environ.get("TASKS_TEST_SECONDS", "300"))
"""How long a campaign may take until it says what it has not reached."""

Measured = Callable[[str, str], None]

ELSEWHERE = [place for place in places() if place.point.startswith("Publication.")]
"""Reached only where the broker is another server than the store."""

SERVED = [place for place in places() if place.kind is not Kind.REPAIR and place not in ELSEWHERE]
"""Reached while the service runs as it does by default."""


def calls() -> Iterator[ast.Call]:
    """Every call of `failpoint` in the product, and around beat."""
    for path in (*(ROOT / "tasks_service").rglob("*.py"), ROOT / "tests/faults/chaos_app.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                yield node


def test_the_list_of_points_is_that_of_the_code() -> None:
    written = {ast.unparse(call.args[0]) + "." + ast.literal_eval(call.args[1]) for call in calls()}
    named = {point.replace("'", "") for point in written if not point.startswith("event.")}
    transacted = {point for point in written if point.startswith("event.")}
    assert transacted == {f"event.{side}" for side in SIDES}  # the transaction loop says what it transacts
    kinds = [
        kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, events.Event)
    ]
    concrete = {kind.__name__ for kind in kinds if not kind.__subclasses__()}
    of_events = {f"{name}.{side}" for name in concrete for side in SIDES}
    assert named | of_events == {f"{name}.{side}" for name in POINTS for side in SIDES}
    assert not named & of_events


def test_a_point_costs_no_more_than_a_call_while_failpoints_are_off() -> None:
    number = 100_000
    each = quickest(
        lambda: timeit.timeit(lambda: failpoint("Claim", "before"), number=number), 0.1e-6 * number
    )
    assert each / number < 0.1e-6


def test_an_arming_strikes_one_process_once_and_leaves_a_witness(tmp_path: Path) -> None:
    program = "from tasks_service.failpoints import failpoint; failpoint('Claim', 'before'); print('alive')"

    def run(*, leads: bool) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            cwd=ROOT,
            env={**os.environ, VARIABLE: str(tmp_path)},
            start_new_session=leads,
            capture_output=True,
            text=True,
            check=False,
        )

    (tmp_path / "Claim.before.leader").write_text("kill")
    assert run(leads=False).stdout == "alive\n"
    assert run(leads=True).returncode == -9
    assert run(leads=True).stdout == "alive\n"
    (witness,) = (tmp_path / "taken").iterdir()
    assert witness.name.startswith("Claim.before.leader.")


def campaign(
    directory: Path, wanted: dict[Place, int], *, action: str, elsewhere: bool = False
) -> tuple[Striker, Campaign]:
    """Strike all that is wanted under the traffic of all kinds of clients."""
    # Beat asks children for a sweep more often than workers sweep by themselves, so that both do; and few of
    # the slots are one owner's, so that tasks wait for their turn and are called.
    settings = {"TASKS_SWEEP_INTERVAL": "0.5", "TASKS_MAX_RUNNING_PER_OWNER": "3"}
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
        striker.strike(SECONDS)
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


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_nothing_is_lost_whichever_process_is_killed_at_whichever_point(
    tmp_path: Path, measured: Measured
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(SERVED, KILLS), action="kill")
    measured("R2", f"killed, {figures(striker, result)}")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_nothing_is_lost_when_whoever_sends_a_message_to_a_broker_elsewhere_is_killed(
    tmp_path: Path, measured: Measured
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(ELSEWHERE, KILLS), action="kill", elsewhere=True)
    measured("R2", f"broker elsewhere, {figures(striker, result)}")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_process_that_is_stopped_at_any_point_for_longer_than_its_lease_writes_nothing_stale(
    tmp_path: Path, measured: Measured
) -> None:
    striker, result = campaign(tmp_path, dict.fromkeys(SERVED, 1), action="stop")
    measured("R2", f"stopped and woken, {figures(striker, result)}")
