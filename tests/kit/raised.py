"""Every exception class that Python and Celery have, and what an author may write that is hard to look at."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import json
import queue
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import billiard.exceptions
import celery.exceptions
import redis.exceptions
from pydantic import TypeAdapter

Make = Callable[[], BaseException]


def _classes(module: Any) -> Iterator[type[BaseException]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, BaseException):
            yield value


_ARGUMENTS: dict[type[BaseException], tuple[Any, ...]] = {
    UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "no"),
    UnicodeEncodeError: ("utf-8", "\ud800", 0, 1, "no"),
    UnicodeTranslateError: ("\ud800", 0, 1, "no"),
    ExceptionGroup: ("both", [ValueError(1), KeyError("x")]),
    BaseExceptionGroup: ("both", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(3)]),
    subprocess.CalledProcessError: (3, ["make"]),
    subprocess.TimeoutExpired: (["make"], 3),
    asyncio.IncompleteReadError: (b"x", 3),
    asyncio.LimitOverrunError: ("no", 3),
    json.JSONDecodeError: ("no", "x", 0),
    celery.exceptions.CeleryCommandException: ("no", 3),
    redis.exceptions.AskError: ("1 host:1",),
    redis.exceptions.MovedError: ("1 host:1",),
}


def _made(kind: type[BaseException]) -> BaseException:
    with contextlib.suppress(TypeError):
        return kind(*_ARGUMENTS.get(kind, ()))
    return kind("no")


_MODULES = (
    builtins,
    asyncio,
    asyncio.exceptions,
    concurrent.futures,
    json,
    queue,
    socket,
    subprocess,
    celery.exceptions,
    billiard.exceptions,
    redis.exceptions,
)

CLASSES: dict[str, Make] = {
    f"{kind.__module__}.{kind.__qualname__}": lambda kind=kind: _made(kind)  # type: ignore[misc]
    for module in _MODULES
    for kind in _classes(module)
}
"""By name: what makes one of each class."""


# --- what an author may write -----------------------------------------------------------------------------


class Mute(Exception):
    """Cannot be shown."""

    def __str__(self) -> NoReturn:
        raise KeyboardInterrupt

    __repr__ = __str__


class NoText(Exception):
    """Its text is none."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Unpicklable(Exception):
    """Cannot be sent to another process, which Celery would like to do."""

    def __init__(self) -> None:
        super().__init__("x")
        self.lock = __import__("threading").Lock()

    def __reduce__(self) -> NoReturn:
        raise SystemExit(3)


class Unpickled(Exception):
    """Can be sent, and cannot be read there."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("x")


class Masked(Exception):
    """Does not say what it is."""

    @property  # type: ignore[misc]
    def __class__(self) -> NoReturn:
        raise RuntimeError("no class")


class Disguised(Exception):
    """Says that it is another."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return KeyboardInterrupt


class Closed(Exception):
    """Nothing can be asked of it."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise SystemExit(4)


class Equal(Exception):
    """Is equal to nothing, and has no hash."""

    def __eq__(self, other: object) -> NoReturn:
        raise MemoryError

    __hash__ = None  # type: ignore[assignment]


class Falsy(Exception):
    """Is nothing, as it says."""

    def __bool__(self) -> NoReturn:
        raise GeneratorExit

    def __len__(self) -> int:
        return 0


class Odd:
    """Not even its attributes can be listed."""

    def __dir__(self) -> NoReturn:
        raise KeyboardInterrupt

    def __repr__(self) -> NoReturn:
        raise KeyboardInterrupt


class Kind(type):
    """A class of classes that answers nothing."""

    def __instancecheck__(cls, instance: object) -> NoReturn:
        raise KeyboardInterrupt

    def __subclasscheck__(cls, subclass: type) -> NoReturn:
        raise KeyboardInterrupt


class OfOddKind(Exception, metaclass=Kind):
    """Its class cannot be compared."""


def _with(error: BaseException, **attributes: Any) -> BaseException:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def _circle(link: str) -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    setattr(one, link, two)
    setattr(two, link, one)
    return one


def _chain(link: str, length: int) -> BaseException:
    error: BaseException = ValueError("first")
    for _ in range(length):
        error = _with(ValueError("next"), **{link: error})
    return error


def _nested(depth: int) -> BaseException:
    error: Exception = ValueError("inner")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def _deep(levels: int) -> BaseException:
    def even(left: int) -> None:
        odd(left - 1) if left else 1 / 0

    def odd(left: int) -> None:
        even(left - 1) if left else 1 / 0

    try:
        even(levels)
    except (ZeroDivisionError, RecursionError) as error:
        return error
    raise AssertionError


def _invalid() -> BaseException:
    try:
        TypeAdapter(int).validate_python("x" * 100_000)
    except ValueError as error:
        return error
    raise AssertionError


def _named(**names: Any) -> BaseException:
    kind = type("Named", (Exception,), {})
    for name, value in names.items():
        setattr(kind, name, value)
    return kind("x")


AUTHORS: dict[str, Make] = {
    "its text raises": Mute,
    "its text is none": NoText,
    "cannot be pickled": Unpicklable,
    "cannot be unpickled": lambda: Unpickled(1, 2),
    "does not say its class": Masked,
    "says another class": Disguised,
    "answers nothing": Closed,
    "cannot be compared": Equal,
    "is nothing": Falsy,
    "of an odd kind": OfOddKind,
    "causes itself": lambda: _circle("__cause__"),
    "in its own context": lambda: _circle("__context__"),
    "a long chain": lambda: _chain("__cause__", 900),
    "a longer chain": lambda: _chain("__context__", 10_000),
    "nested groups": lambda: _nested(500),
    "a wide group": lambda: ExceptionGroup("wide", [ValueError(number) for number in range(5_000)]),
    "a deep stack": lambda: _deep(900),
    "a huge text": lambda: ValueError("x" * 5_000_000),
    "many arguments": lambda: ValueError(*range(100_000)),
    "half a pair": lambda: ValueError("half \ud800 a pair"),
    "bytes": lambda: ValueError(b"\xff\xfe"),
    "control characters": lambda: ValueError("\x00\x1b[31m\u2028\r\n"),
    "notes that are none": lambda: _with(ValueError("x"), __notes__=5),
    "odd notes": lambda: _with(ValueError("x"), __notes__=[5, None, "half \ud800", Odd()]),
    "a huge note": lambda: _with(ValueError("x"), __notes__=["x" * 2_000_000]),
    "an odd argument": lambda: ValueError(Odd()),
    "a large number": lambda: ValueError(10**5_000),
    "an odd place": lambda: SyntaxError("no", ("file", "x", -5, 7)),
    "a place beyond": lambda: SyntaxError("no", ("half \ud800", 10**9, 10**9, "x" * 1_000_000)),
    "an odd object": lambda: AttributeError("no", name="x", obj=Odd()),
    "an odd name": lambda: NameError("no", name="half \ud800"),
    "a class of a wrong module": lambda: _named(__module__=5),
    "an error of a wrong module": lambda: type("ToolError", (Exception,), {"__module__": 5})("x"),
    "a class of no module": lambda: _named(__module__="half \ud800"),
    "a class of a long name": lambda: _named(__qualname__="x" * 1_000_000),
    "invalid input": _invalid,
    "its own last context": lambda: _with(ValueError("x"), __context__=KeyboardInterrupt()),
}
"""By name: what an author may raise, and what is hard about it."""

RAISED: dict[str, Make] = {**CLASSES, **AUTHORS}
