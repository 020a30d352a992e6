"""What an author is told of a tool whose runs differ: what was before, what came now, what to write."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from ..authoring.tool import Tool
from .failures import NotDeterministic, NotInAStep
from .reads import Read
from .replay import Difference

_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:\s*:[^=]+)?\s*=\s*(?P<value>[^=].*)")

_RULE = "What decides about the calls of a tool must come from its arguments, from answers or from steps."


def not_deterministic(tool: Tool, difference: Difference, reads: Iterable[Read]) -> NotDeterministic:
    """The error for a tool that makes other calls when it runs again.

    Args:
        tool: The tool.
        difference: Where its runs differ.
        reads: Where it reads a clock or draws at random, outside of steps.
    """
    lines = [
        f"The tool {tool.name!r} is not deterministic: run again from the top, it makes other calls.",
        f"  before: {difference.recorded}",
        f"  now:    {difference.now}",
    ]
    found = list(reads)
    if difference.step_raised:
        lines += _of_a_step_that_raised(difference.step_raised)
    elif found:
        lines += ["Outside of a step it calls what gives another value each time:", *_listed(found)]
        lines += [f"{_RULE} Write instead:", *_steps(tool, found)]
    else:
        lines += [
            f"{_RULE} Look for what it reads outside of steps: a file, a database, another service, a "
            "variable that outlives the run, the order of a set. Read it in a step instead:",
            f"  value = {_step(tool, 'value', 'read_it()')}",
        ]
    return NotDeterministic("\n".join(lines))


def warn_of_reads(tool: Tool, reads: Iterable[Read]) -> None:
    """Warn of a tool that reads a clock or draws at random outside of its steps, at the author's own line."""
    for read in reads:
        step = " ".join(line.strip() for line in _steps(tool, [read]))
        warnings.warn_explicit(
            f"The tool {tool.name!r} calls {read.call}() outside of a step: each of its runs gets another "
            f"value. If what it asks, or what it does next, depends on it, write: {step}",
            NotInAStep,
            read.file,
            read.line,
        )


def _of_a_step_that_raised(name: str) -> list[str]:
    return [
        f"In the run before, step {name!r} raised an exception, which is not recorded: each run tries it "
        "again. Catch it in the step's own function, and return what the tool must know of it."
    ]


def _listed(reads: Iterable[Read]) -> list[str]:
    return [f"  {read}" for read in reads]


def _steps(tool: Tool, reads: Iterable[Read]) -> list[str]:
    return list(dict.fromkeys(line for read in reads for line in _as_a_step(tool, read)))


def _as_a_step(tool: Tool, read: Read) -> list[str]:
    assigned = _ASSIGNMENT.fullmatch(read.source)
    name = assigned["name"] if assigned else "value"
    value = assigned["value"] if assigned else f"{read.call}()"
    if not read.is_clock:
        return [f"  {name} = {_step(tool, name, value)}"]
    # What a lambda returns is read back as plain JSON: a moment would become a text.
    kind = "date" if read.call.endswith("today") else "datetime"
    made = value if assigned and value.endswith(")") and value.count("(") == 1 else f"{read.call}()"
    return [
        f"  def take_{name}() -> {kind}:",
        f"      return {made}",
        f'  {name} = {_await(tool)}ctx.step("{name}", take_{name})',
    ]


def _step(tool: Tool, name: str, value: str) -> str:
    return f'{_await(tool)}ctx.step("{name}", lambda: {value})'


def _await(tool: Tool) -> str:
    return "await " if tool.is_async else ""
