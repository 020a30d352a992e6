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
def service(tmp_path: Path) -> Iterator[RunningUp]:
    running = RunningUp(tmp_path)
    yield running
    if not running.ended and running.process is not None:
        running.stop(signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_survives_when_up_itself_is_killed(service: RunningUp) -> None:
    service.start()
    assert len(service.processes()) > 5

    service.stop(signal.SIGKILL)

    wait_until(lambda: not service.processes(), lambda: str(service.processes()))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_sigterm_stops_everything_in_order_and_redis_last(service: RunningUp) -> None:
    service.start()

    status = service.stop(signal.SIGTERM)

    said = service.text()
    order = [said.index(f"{name} | stopped") for name in ("web   ", "beat  ", "worker", "flower")]
    assert status == 0
    assert order == sorted(order)
    assert not service.processes()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_dies_is_started_again(service: RunningUp) -> None:
    service.start()
    (worker, *_) = sorted(pid for pid in service.processes() if b"worker" in command_of(pid))

    os.kill(worker, signal.SIGKILL)

    wait_until(lambda: "starting it again" in service.text())
    assert service.run("call", "profile_csv", "--arg", "path=people.csv").returncode == 0


def test_tasks_are_still_there_after_a_restart(service: RunningUp) -> None:
    service.start()
    service.run("call", "profile_csv", "--arg", "path=people.csv")
    before = service.listed()
    service.stop()

    service.log.unlink()
    service.start()

    assert service.listed() == before != []


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
