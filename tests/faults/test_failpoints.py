"""Every point at which a process may die is known, and costs nothing; kills are in test_kills.py."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path

from tasks_service.domain import events
from tasks_service.failpoints import VARIABLE, failpoint
from tests.kit.waiting import quickest

from .points import POINTS, SIDES
from .warm import ROOT


def calls() -> Iterator[ast.Call]:
    """Every call of `failpoint` in the product, and around beat."""
    for path in (*(ROOT / "tasks_service").rglob("*.py"), ROOT / "tests/faults/chaos_app.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                yield node


def test_the_list_of_points_is_that_of_the_code() -> None:
    written = {ast.unparse(call.args[0]) + "." + ast.literal_eval(call.args[1]) for call in calls()}
    named = {point.replace("'", "") for point in written if not point.startswith("transition.name.")}
    transacted = {point for point in written if point.startswith("transition.name.")}
    assert transacted == {
        f"transition.name.{side}" for side in SIDES
    }  # the transaction loop says what it transacts
    kinds = [
        kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, events.Event)
    ]
    concrete = {kind.__name__ for kind in kinds if not kind.__subclasses__()}
    of_events = {f"{name}.{side}" for name in concrete for side in SIDES}
    assert named | of_events == {f"{name}.{side}" for name in POINTS for side in SIDES}
    assert not named & of_events


def test_a_point_costs_no_more_than_a_call_while_failpoints_are_off() -> None:
    def nothing(name: str, side: str) -> None:
        """What costs what any call costs."""

    def times_a_call() -> float:
        call = timeit.timeit(lambda: nothing("Claim", "before"), number=10_000)
        return timeit.timeit(lambda: failpoint("Claim", "before"), number=10_000) / call

    assert quickest(times_a_call, 1.2) < 1.2


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
