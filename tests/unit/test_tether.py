"""A tethered command: its output and status arrive, and nothing of it outlives whoever started it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tasks_service.local.child_process import ManagedProcess
from tests.kit.waiting import wait_until

PARENT = """
import sys, time
from tasks_service.local.child_process import ManagedProcess
ManagedProcess(["sh", "-c", sys.argv[1]], grace=0.5)
time.sleep(60)
"""


def written_pid(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def is_gone(pid: int) -> bool:
    """Whether it has ended, though perhaps nobody has asked for its status yet; on Linux alone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the second, if it ends while it is read
        return True
    return state == "Z"


def test_output_and_exit_status_arrive() -> None:
    command = ManagedProcess(["sh", "-c", "echo out; echo err >&2; exit 3"], output=subprocess.PIPE)

    said = command.stdout.read()

    assert command.wait(60)
    assert (sorted(said.split()), command.stop(grace=1)) == ([b"err", b"out"], 3)
    command.stdout.close()


def test_a_command_that_does_not_exist_ends_with_127() -> None:
    command = ManagedProcess(["no-such-command"], output=subprocess.DEVNULL)

    assert command.stop(grace=60, number=0) == 127


def test_stop_asks_first() -> None:
    command = ManagedProcess(
        ["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"], output=-1
    )
    assert command.stdout.readline() == b"up\n"

    assert command.stop(grace=60) == 7
    command.stdout.close()


def test_stop_kills_what_does_not_listen() -> None:
    command = ManagedProcess(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], output=-1)
    assert command.stdout.readline() == b"up\n"

    assert command.stop(grace=0.3) == 128 + signal.SIGKILL
    command.stdout.close()


def test_children_of_a_killed_command_go_with_it(tmp_path: Path) -> None:
    note = tmp_path / "child"
    command = ManagedProcess(["sh", "-c", f"sleep 60 & echo $! > {note}; wait"])
    child = written_pid(note)

    command.send(signal.SIGKILL)

    assert command.wait(60)
    wait_until(lambda: is_gone(child))
    command.stop(grace=0)


def test_a_command_ends_when_its_parent_is_killed_even_if_it_does_not_listen(tmp_path: Path) -> None:
    note = tmp_path / "command"
    script = f"trap '' TERM; echo $$ > {note}; while :; do sleep 0.05; done"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, script])
    command = written_pid(note)

    parent.kill()
    parent.wait()

    wait_until(lambda: is_gone(command))
