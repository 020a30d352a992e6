"""A supervisor of processes: prints their output with names in front, restarts and stops them.

Each is a `ManagedProcess`: it ends when this process does, however this one ends.
"""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from ..domain.errors import TasksServiceError
from .child_process import ManagedProcess
from .procfile import ProcessSpec, stop_rank

#: Seconds before a process that ended is started again: the first time, and at most.
FIRST_RESTART_SECONDS, LONGEST_RESTART_SECONDS = 0.5, 30.0
#: After running for this many seconds a process counts as stable, and its next failure as the first.
STABLE_AFTER_SECONDS = 30.0
#: A process that ends this often in a row without becoming stable ends the service.
MOST_FAILURES = 5
#: Names of changed files that are printed, at most.
MOST_FILES_SHOWN = 3
#: The exit status of a process that cannot work as it is set up, which no other start would change.
UNUSABLE = 2
#: Seconds between two checks of the processes.
CHECK_SECONDS = 0.1

Emit = Callable[[str, str], None]
"""Prints a line of output of a process: takes the process's name, and the line."""


class ProcessKeepsFailing(TasksServiceError):
    """A process has ended, cannot start, or ends again and again; its own output says why."""


@dataclass(slots=True)
class _Running:
    spec: ProcessSpec
    process: ManagedProcess
    reader: threading.Thread
    started: float
    failures: int = 0
    restart_at: float | None = None
    kill_at: float | None = None
    """When it is killed if it has not ended by then; set while it is to start again with other code."""


@dataclass(slots=True)
class Supervisor:
    """A set of processes that run together.

    Args:
        specs: The processes to run; their names are unique.
        env: The whole environment of each.
        emit: Prints their output; called from several threads.
        restart: Whether a process that ends by itself is started again.
        reloading: Whether there may be a `reload`: a process that ends with an error soon after its start
            then waits for one.
    """

    specs: Sequence[ProcessSpec]
    env: Mapping[str, str]
    emit: Emit
    restart: bool = True
    reloading: bool = False
    _running: dict[str, _Running] = field(default_factory=dict)

    def start(self) -> None:
        """Start all processes; returns at once."""
        for spec in self.specs:
            self.add(spec)

    def add(self, spec: ProcessSpec) -> None:
        """Start one process more, of a name that no other has; returns at once."""
        self._running[spec.name] = self._launch(spec)

    def run(self, until: threading.Event, changed: Callable[[], Sequence[str]] = tuple) -> None:
        """Restart processes that end, until the event is set.

        Args:
            until: Ends it.
            changed: Files of the processes' code that have changed; asked often. If there are any, the
                processes start again.

        Raises:
            ProcessKeepsFailing: One of them ends again and again.
        """
        while not until.wait(CHECK_SECONDS):
            if files := changed():
                self.reload(files)
            self.check()

    def reload(self, files: Sequence[str]) -> None:
        """Let all processes that run the author's code end, and start again with the code as it is now.

        Returns at once; `check` starts each when it has ended.

        Args:
            files: What has changed.
        """
        shown = ", ".join(files[:MOST_FILES_SHOWN]) + (", ..." if len(files) > MOST_FILES_SHOWN else "")
        for name, running in self._running.items():
            if not running.spec.runs_code:
                continue
            self.emit(name, f"starting again: {shown} changed")
            running.failures, running.restart_at = 0, None
            running.kill_at = time.monotonic() + running.spec.stop_seconds
            running.process.send(signal.SIGTERM)

    def check(self) -> None:
        """Look for processes that have ended, and restart those that are due.

        Raises:
            ProcessKeepsFailing: One of them ends again and again.
        """
        for running in self._running.values():
            if running.kill_at is not None:
                self._check_reload(running, running.kill_at)
            elif running.restart_at is None:
                self._check_exit(running)
            elif time.monotonic() >= running.restart_at:
                self._relaunch(running)

    def require_running(self) -> None:
        """Require that all processes run.

        Raises:
            ProcessKeepsFailing: One of them has ended.
        """
        for name, running in self._running.items():
            status = running.process.returncode
            if status is not None:
                raise ProcessKeepsFailing(f"{name} ended with exit status {status}; its last lines say why.")

    def returncode(self, name: str) -> int | None:
        """The exit status of a process, 128 + n if signal n ended it; None while it runs."""
        return self._running[name].process.returncode

    def send(self, name: str, number: int) -> None:
        """Send a signal to a process; SIGKILL goes to its whole process group."""
        self._running[name].process.send(number)

    def stop(self) -> None:
        """Stop all processes in order, those of one rank together; kill those that take too long."""
        ordered = sorted(self._running.values(), key=lambda running: stop_rank(running.spec.name))
        for _, rank in groupby(ordered, key=lambda running: stop_rank(running.spec.name)):
            threads = [threading.Thread(target=self._end, args=(running,)) for running in rank]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self._running.clear()

    def _launch(self, spec: ProcessSpec) -> _Running:
        process = ManagedProcess(
            spec.arguments, env=self.env, output=subprocess.PIPE, grace=spec.stop_seconds
        )
        reader = threading.Thread(target=self._read, args=(spec.name, process), daemon=True)
        reader.start()
        return _Running(spec=spec, process=process, reader=reader, started=time.monotonic())

    def _relaunch(self, running: _Running) -> None:
        _collect(running)
        fresh = self._launch(running.spec)
        running.process, running.reader, running.started = fresh.process, fresh.reader, fresh.started
        running.restart_at = running.kill_at = None

    def _check_reload(self, running: _Running, kill_at: float) -> None:
        if running.process.returncode is not None:
            self._relaunch(running)
        elif time.monotonic() >= kill_at:
            running.process.send(signal.SIGKILL)

    def _check_exit(self, running: _Running) -> None:
        status = running.process.returncode
        if status is None or not self.restart:
            return
        now = time.monotonic()
        is_stable = now - running.started >= STABLE_AFTER_SECONDS
        if self.reloading and status and not is_stable:
            running.restart_at = math.inf
            self.emit(running.spec.name, f"ended with exit status {status}; starts again when a file changes")
            return
        if status == UNUSABLE:
            raise ProcessKeepsFailing(
                f"{running.spec.name} cannot start as it is set up (exit status {status}); "
                "its last lines above say why."
            )
        running.failures = 1 if is_stable else running.failures + 1
        if running.failures >= MOST_FAILURES:
            raise ProcessKeepsFailing(
                f"{running.spec.name} ended {running.failures} times in a row (exit status {status}); "
                "its last lines above say why."
            )
        delay = min(FIRST_RESTART_SECONDS * 2 ** (running.failures - 1), LONGEST_RESTART_SECONDS)
        running.restart_at = now + delay
        self.emit(running.spec.name, f"ended with exit status {status}; starting it again in {delay:g} s")

    def _end(self, running: _Running) -> None:
        if running.process.returncode is None:
            self.emit(running.spec.name, "stopping")
        status = _collect(running)
        self.emit(running.spec.name, f"stopped (exit status {status})")

    def _read(self, name: str, process: ManagedProcess) -> None:
        for line in process.stdout:
            self.emit(name, line.decode(errors="replace").rstrip())


def _collect(running: _Running) -> int:
    """End a process, if it has not ended, with its pipes; its exit status."""
    status = running.process.stop(grace=running.spec.stop_seconds)
    running.reader.join(timeout=1.0)
    running.process.stdout.close()
    return status
