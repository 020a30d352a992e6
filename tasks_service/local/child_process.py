"""Child processes that never outlive the process that started them.

A `ManagedProcess` runs under a small wrapper process (this file, run as a script: standard library only, no
site packages). The wrapper holds the read end of a pipe. Each byte in it is a signal to pass on; its end
means that the parent has ended, for whatever reason: the command then gets SIGTERM, a grace period and
SIGKILL. When the command ends, the rest of its process group is killed too, so that a pool child cannot
outlive its worker.

Linux's parent-death signal would not do instead: it is sent when the *thread* that forked ends, and macOS has
none.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

#: Seconds that a command has to end after its parent has ended.
DEFAULT_GRACE = 10.0


class ManagedProcess:
    """A running command that ends with this process.

    Args:
        command: Program and arguments.
        env: The whole environment; None inherits.
        cwd: Working directory; None inherits.
        output: Where stdout and stderr go: None inherits, else a value that `subprocess` takes.
        keep_open: File descriptors that the command inherits.
        grace: Seconds between SIGTERM and SIGKILL after this process has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: int | IO[Any] | None = None,
        keep_open: Iterable[int] = (),
        grace: float = DEFAULT_GRACE,
    ) -> None:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(grace), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            pass_fds=tuple(keep_open),
            start_new_session=True,  # a terminal's Ctrl-C reaches only us, so that we stop children in order
        )

    @property
    def stdout(self) -> IO[bytes]:
        """The command's output, if `output` was `subprocess.PIPE`."""
        if self._process.stdout is None:
            raise ValueError("this command's output goes elsewhere")
        return self._process.stdout

    @property
    def returncode(self) -> int | None:
        """The command's exit status, 128 + n if signal n ended it; None while it runs."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """Send a signal to the command, SIGKILL to its whole process group; ignored if it has ended."""
        control = self._process.stdin
        if control is not None and not control.closed:
            with contextlib.suppress(BrokenPipeError):
                control.write(bytes([number]))
                control.flush()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the command's end; return whether it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self._process.returncode is not None

    def stop(self, *, grace: float, number: int = signal.SIGTERM) -> int:
        """Send a signal, and SIGKILL after `grace` seconds; return the command's exit status."""
        self.send(number)
        if not self.wait(grace):
            self.send(signal.SIGKILL)
        status = self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        return status


def _run_wrapped(grace: float, command: Sequence[str]) -> int:
    """Run a command until it ends, or until stdin does; returns its exit status."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = _spawn(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: _pass_on(child, received))
    sources, kill_at = [wake_read, 0], float("inf")
    while True:
        status = _reap(child)
        if status is not None:
            _kill_group(child)
            return status
        timeout = None if kill_at == float("inf") else max(kill_at - time.monotonic(), 0.0)
        ready, _, _ = select.select(sources, [], [], timeout)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if 0 in ready:
            numbers = os.read(0, 64)
            for signal_number in numbers:
                _pass_on(child, signal_number)
            if not numbers:
                sources.remove(0)
                _pass_on(child, signal.SIGTERM)
                kill_at = time.monotonic() + grace
        if time.monotonic() >= kill_at:
            _kill_group(child)


def _spawn(command: Sequence[str]) -> int:
    wrapper = os.getpid()
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # the child may have done so already, or be past exec
            os.setpgid(child, child)
        return child
    try:
        os.setpgid(0, 0)
        _die_with_wrapper(wrapper)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.execvp(command[0], list(command))  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _die_with_wrapper(wrapper: int) -> None:
    """On Linux, end the command too if the wrapper itself is killed."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # imported here because it doubles the start-up time of the wrapper

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != wrapper:
        os._exit(127)


def _reap(child: int) -> int | None:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _pass_on(child: int, number: int) -> None:
    if number == signal.SIGKILL:
        _kill_group(child)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_run_wrapped(float(sys.argv[1]), sys.argv[2:]))
