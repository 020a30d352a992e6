"""The official Python client 1.30, the last with tasks of 2025-11-25, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tasks_service.domain.errors import InvalidTransition, TaskNotFound
from tasks_service.questions import Form

from .balancer import balancing
from .support import Worker, asked

CLIENT = "mcp==1.30.0"
PROGRAM = Path(__file__).parent / "clients" / "python_mcp_1_30.py"
NAME = asked(Form("Your name?", {"type": "object", "properties": {"name": {"type": "string"}}}))


@pytest.fixture(scope="session")
def client_python(pytestconfig: pytest.Config) -> str:
    """A Python that has the client; made once and kept in pytest's cache."""
    assert pytestconfig.cache is not None
    home = pytestconfig.cache.mkdir("client-python-mcp-1.30")
    python = home / "bin" / "python"
    try:
        if not (home / "installed").exists():
            run = {"check": True, "capture_output": True, "timeout": 110, "text": True}
            subprocess.run([sys.executable, "-m", "venv", str(home)], **run)  # type: ignore[call-overload]
            subprocess.run([str(python), "-m", "pip", "install", "-q", CLIENT], **run)  # type: ignore[call-overload]
            (home / "installed").touch()
    except (subprocess.SubprocessError, OSError) as error:
        reason = f"NOT TRIED: the client {CLIENT} could not be installed: {getattr(error, 'stderr', error)}"
        reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"\n{reason}", red=True, bold=True)
        pytest.skip(reason)
    return str(python)


@contextmanager
def working(worker: Worker) -> Iterator[None]:
    """Run everything at once, but `soon` asks first and `tell` never runs."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            for task_id in worker.pending():
                with suppress(InvalidTransition, TaskNotFound):
                    record = worker.store.inspect(task_id)
                    if record.task.tool == "soon" and not record.journal:
                        time.sleep(0.3)
                        worker.ask(task_id, {"name": NAME})
                    elif record.task.tool != "tell":
                        worker.run(task_id)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


@pytest.mark.timeout(240)
def test_the_official_python_client_of_2025_is_served_by_two_front_ends_in_turn(
    ports: list[int], worker: Worker, client_python: str
) -> None:
    with working(worker), balancing(ports) as port:
        ran = subprocess.run(
            [client_python, str(PROGRAM), f"http://127.0.0.1:{port}/mcp"],
            capture_output=True,
            text=True,
            timeout=200,
        )

    assert ran.returncode == 0, ran.stderr[-4000:]
    assert json.loads(ran.stdout) == {
        "version": "2025-11-25",
        "can_list": True,
        "support": "required",
        "plain": {"result": 3},
        "polled": "completed",
        "result": ["heavy"],
        "questions": ["Your name?", "Your name?"],
        "answered": ["Hello, Ada!"],
        "asked_on_the_sessions_stream": "completed",
        "cancelled": ["cancelled", -32800],
        "listed_newest_first": True,
        "heard_of": True,
    }
