"""How a host of a Python client goes through its acts: what breaks is tried again on a new connection."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

STEP_SECONDS = 60
"""What a step may take, on a machine that is busy with other things."""

READ_SECONDS = 15
"""After this a host gives an answer up: the connection it would come by may have died without a word."""

Step = Callable[[Any], Awaitable[Any]]


def url() -> str:
    """The server: the program's first argument."""
    return sys.argv[1]


def patience() -> float:
    """For how many seconds broken connections are tried again: the program's second argument, 0 for never."""
    return float(sys.argv[2])


async def go_through(connect: Callable[[], AbstractAsyncContextManager[Any]], steps: Sequence[Step]) -> None:
    """Take the steps in turn, on one connection while it lasts; print what each saw as a line of JSON.

    A step is named after its act. After a failure it is taken again from its start, on a new connection; it
    remembers the tasks that it has made.
    """
    left = list(steps)
    give_up = time.monotonic() + patience()
    while left:
        try:
            async with connect() as session:
                while left:
                    async with asyncio.timeout(STEP_SECONDS):
                        saw = await left[0](session)
                    _tell(left.pop(0), saw=saw)
                    give_up = time.monotonic() + patience()
        except Exception as error:
            print(f"again: {error!r}", file=sys.stderr)
            if left and time.monotonic() > give_up:
                _tell(left.pop(0), error=_reason(error))
                give_up = time.monotonic() + patience()
            else:
                await asyncio.sleep(0.2)


def _tell(step: Step, **what: Any) -> None:
    name = step.__name__  # type: ignore[attr-defined]
    print(json.dumps({"act": name, **what}), flush=True)


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)


def texts(result: Any) -> list[str]:
    """The text blocks of a tool's result."""
    return [block.text for block in result.content if block.type == "text"]
