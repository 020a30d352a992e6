"""What is started or asked in vain: a sentence in seconds, and an exit status, in place of a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.servers import free_port

ROOT = Path(__file__).parents[2]
NOWHERE = "redis://127.0.0.1:1/0"
IMPORTS = 20.0
"""Seconds that a command needs to start at most, on a loaded machine."""


def run(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks_service", *arguments],
        cwd=ROOT,
        env={**os.environ, "TASKS_DATA_DIR": str(tmp_path), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", [["list"], ["inspect", "00x"], ["cancel", "00x"], ["repair"]])
def test_a_command_without_a_redis_says_so_within_seconds(tmp_path: Path, command: list[str]) -> None:
    began = time.monotonic()
    done = run(tmp_path, *command, TASKS_REDIS_URL=NOWHERE)
    assert done.returncode == 1
    assert "The task store is unavailable" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 2.0 + IMPORTS


def test_a_front_end_that_refuses_to_start_says_one_sentence_and_ends_with_status_2(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", TASKS_REDIS_URL=NOWHERE, TASKS_HOST="0.0.0.0", TASKS_PORT=str(free_port()))
    assert done.returncode == 2
    assert "Error: TASKS_HOST is 0.0.0.0" in done.stderr
    assert "Set TASKS_API_KEYS=name:key" in done.stderr
    assert "Traceback" not in done.stderr


def test_up_ends_at_once_when_a_process_cannot_work_as_it_is_set_up(tmp_path: Path) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("web: python -m tasks_service serve\n")
    settings = {"TASKS_HOST": "0.0.0.0", "TASKS_PORT": str(free_port())}
    done = run(tmp_path, "up", "--app", "workers.app:service", "--procfile", str(procfile), **settings)
    assert done.returncode == 1
    assert "web cannot start as it is set up (exit status 2)" in done.stderr
    assert done.stdout.count("ended with exit status") == 0
