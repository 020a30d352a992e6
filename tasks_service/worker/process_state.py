"""What a tool may change of its process, and the next task in the same pool child would suffer from.

A prefork child runs one task at a time, in its main thread, and many one after the other. The working
directory, the handlers of signals, the set of blocked signals and a running alarm are put back after each
tool. The environment (`os.environ`, the locale, the umask, limits) is not: a tool that changes it must change
it back.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

logger = logging.getLogger(__name__)

_SIGNALS = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
"""The signals that can be handled."""


@contextmanager
def restored_process_state(tool: str) -> Iterator[None]:
    """Put back, at the end, what the code here has changed of this process. Main thread only.

    Args:
        tool: The tool that runs, for the log.
    """
    handlers, blocked = _handlers(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    alarm = signal.getitimer(signal.ITIMER_REAL)
    directory = _open_directory()
    try:
        yield
    finally:
        changed = [
            *_restore_alarm(alarm),
            *_restore_handlers(handlers),
            *_restore_mask(blocked),
            *_restore_directory(directory),
        ]
        if changed:
            logger.warning("Tool %s has changed %s; put back for the next task", tool, ", ".join(changed))


def _handlers() -> Mapping[signal.Signals | int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _restore_handlers(handlers: Mapping[signal.Signals | int, Any]) -> Iterator[str]:
    for number, handler in handlers.items():
        # None: it was not installed from Python, and cannot be put back from there.
        if signal.getsignal(number) != handler and handler is not None:
            signal.signal(number, handler)
            yield f"the handler of {_name(number)}"


def _restore_mask(blocked: set[signal.Signals | int]) -> Iterator[str]:
    if signal.pthread_sigmask(signal.SIG_SETMASK, blocked) != blocked:
        yield "the signals that are blocked"


def _restore_alarm(before: tuple[float, float]) -> Iterator[str]:
    if before == (0.0, 0.0) and signal.getitimer(signal.ITIMER_REAL) != before:
        signal.setitimer(signal.ITIMER_REAL, 0)
        yield "the alarm"


def _open_directory() -> int | None:
    """The working directory, in a way that survives its being renamed; None if there is none any more."""
    with suppress(OSError):
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    return None


def _restore_directory(directory: int | None) -> Iterator[str]:
    if directory is None:
        return
    try:
        if not _is_here(directory):
            os.fchdir(directory)
            yield "the working directory"
    except OSError:
        logger.exception("The working directory cannot be put back")
    finally:
        with suppress(OSError):
            os.close(directory)


def _is_here(directory: int) -> bool:
    try:
        return os.path.samestat(os.stat("."), os.fstat(directory))  # noqa: PTH116 - as the descriptor is
    except FileNotFoundError:  # the tool's own directory is gone
        return False


def _name(number: signal.Signals | int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {int(number)}"
