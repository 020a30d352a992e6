"""`tasks-service up` and its end, in every way that it can come."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_service.local.procfile import DEFAULT_PROCFILE, DEFAULT_SCHEDULER, parse_procfile
from tests.kit.waiting import wait_until

from .running_up import REPOSITORY, RunningUp


@pytest.fixture
def service(tmp_path: Path) -> RunningUp:
    """One that is not started."""
    return RunningUp(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    """One that `running` starts, with the same directory and data each time."""
    service = RunningUp(tmp_path_factory.mktemp("up"))
    yield service
    if service.process is not None and not service.ended:
        service.stop(signal.SIGTERM)


@pytest.fixture
def running(shared: RunningUp) -> RunningUp:
    """One that runs: started again if the test before has ended it."""
    if shared.process is None or shared.ended:
        shared.log.unlink(missing_ok=True)
        shared.start()
    return shared


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_dies_is_started_again(running: RunningUp) -> None:
    (worker, *_) = sorted(pid for pid in running.processes() if b"worker" in command_of(pid))

    os.kill(worker, signal.SIGKILL)

    wait_until(lambda: "starting it again" in running.text())
    assert running.call("profile_csv", "--arg", "path=people.csv").returncode == 0


def test_tasks_are_still_there_after_a_restart(running: RunningUp) -> None:
    running.call("profile_csv", "--arg", "path=people.csv")
    before = running.listed()
    running.stop()

    running.log.unlink()
    running.start()

    assert running.listed() == before != []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_sigterm_stops_everything_in_order_and_redis_last(running: RunningUp) -> None:
    status = running.stop(signal.SIGTERM)

    said = running.text()
    order = [said.index(f"{name} | stopped") for name in ("web   ", "beat  ", "worker", "flower")]
    assert status == 0
    assert order == sorted(order)
    assert not running.processes()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_survives_when_up_itself_is_killed(running: RunningUp) -> None:
    assert len(running.processes()) > 5

    running.stop(signal.SIGKILL)

    wait_until(lambda: not running.processes(), lambda: str(running.processes()))


@pytest.mark.parametrize(
    ("settings", "explanation"),
    [
        ({"TASKS_PORT": "none"}, "TASKS_PORT"),
        ({"TASKS_API_KEYS": "ann:short"}, "at least 16 characters"),
        ({"FLOWER_ADDRESS": "0.0.0.0"}, "FLOWER_BASIC_AUTH"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_way_out(
    service: RunningUp, settings: dict[str, str], explanation: str
) -> None:
    done = service.run("up", **settings)

    assert done.returncode == 2
    assert explanation in done.stderr


def test_operators_commands_say_when_there_is_no_redis(service: RunningUp) -> None:
    done = service.run("list")

    assert done.returncode == 2
    assert "tasks-service up" in done.stderr


def test_an_app_that_is_not_there_is_named(service: RunningUp) -> None:
    done = service.run("up", "--app", "nowhere:service")

    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_the_procfile_lists_what_up_runs_by_itself() -> None:
    ours = DEFAULT_PROCFILE.substitute(
        app="workers.app", celery_app="workers.app", worker_options="", scheduler=DEFAULT_SCHEDULER
    )

    assert parse_procfile((REPOSITORY / "Procfile").read_text()) == parse_procfile(ours)


def command_of(pid: int) -> bytes:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return b""
    # Tether and shell carry the command of the worker as well; the worker itself is Python running celery.
    return b" ".join(words) if any(word.endswith(b"/celery") for word in words[1:2]) else b""
