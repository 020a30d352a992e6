"""Finds where a tool reads a clock or draws at random outside of its steps.

Such a call gives another value in each run of the tool, which a test that runs it twice at once may not see:
the date is the same, or the same of two branches was drawn. So the calls themselves are looked for, while a
tool is replayed, by the interpreter's own hook for profilers. Only calls that stand in an author's own code
count: a library that measures how long it takes is no concern of a tool's.
"""

from __future__ import annotations

import linecache
import os
import random
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any, Final

_OURS: Final = __name__.partition(".")[0]
_LIBRARIES: Final = tuple(
    os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
_CLOCKS: Final = frozenset({"now", "utcnow", "today"})
_DRAWING: Final = frozenset({"random", "uuid", "secrets"})
_SHARED_RANDOM: Final = random.random.__self__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Read:
    """A call that gives another value in each run.

    Attributes:
        call: Its name, as in `random.choice`.
        file: The author's file.
        line: The line in it.
    """

    call: str
    file: str
    line: int

    @property
    def source(self) -> str:
        """The line's text; empty if the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def is_clock(self) -> bool:
        """Whether it gives a date or a time of `datetime`."""
        return self.call.rpartition(".")[2] in _CLOCKS

    def __str__(self) -> str:
        where = f"{self.call}() in {os.path.relpath(self.file)}:{self.line}"
        return f"{where}: {self.source}" if self.source else where


class Reads:
    """The reads of a replay, in the order in which they came; each place once."""

    def __init__(self) -> None:
        self._found: dict[Read, None] = {}

    def __iter__(self) -> Iterator[Read]:
        return iter(self._found)

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose reads are noted, in the thread that calls it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._watching():
                return function(*args, **kwargs)

        return call

    def watched_async(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same for a coroutine function, in the thread of its event loop."""

        async def call(*args: Any, **kwargs: Any) -> Any:
            with self._watching():
                return await function(*args, **kwargs)

        return call

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if sys.getprofile() is not None:  # somebody measures the test itself
            yield
            return
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            caller: FrameType | None = frame
            call = _name_of_builtin(argument)
        elif event == "call":
            caller = frame.f_back
            call = _name_of_function(frame)
        else:
            return
        if call is not None and caller is not None and _is_authors(caller):
            self._found[Read(call, caller.f_code.co_filename, caller.f_lineno)] = None


def _name_of_builtin(called: Any) -> str | None:
    owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
    if isinstance(owner, type) and issubclass(owner, date) and name in _CLOCKS:
        return f"{owner.__name__}.{name}"
    if called is time.time or called is time.time_ns:
        return f"time.{name}"
    if owner is _SHARED_RANDOM:
        return f"random.{name}"
    return "os.urandom" if called is os.urandom else None


def _name_of_function(frame: FrameType) -> str | None:
    module = frame.f_globals.get("__name__")
    if module not in _DRAWING:
        return None
    name = frame.f_code.co_name
    if module == "random" and not _is_shared(frame.f_locals.get("self")):
        return None  # of a generator of its own, which may have been given a seed
    if module == "uuid" and name not in ("uuid1", "uuid4"):
        return None
    return None if name.startswith("_") else f"{module}.{name}"


def _is_shared(generator: Any) -> bool:
    return generator is _SHARED_RANDOM or isinstance(generator, random.SystemRandom)


def _is_authors(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    if name.partition(".")[0] in (_OURS, *sys.stdlib_module_names):
        return False
    path = os.path.realpath(frame.f_code.co_filename)
    return not path.startswith(_LIBRARIES) and _PACKAGES.isdisjoint(Path(path).parts)
