"""What an author is told of a tool whose runs differ: what was before, what came now, what to write."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable
from typing import TypeGuard

from ..authoring.tool import Tool
from .failures import NotDeterministic, NotInAStep
from .reads import Read
from .replay import Difference

_HEAD = re.compile(r"^(?:if|elif|while) ")
"""What begins a statement that cannot be read by its first line alone."""

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
    name, value, is_moment = _written(read)
    if not is_moment:
        return [f"  {name} = {_step(tool, name, value)}"]
    # What a lambda returns is read back as plain JSON: a moment would become a text.
    kind = "date" if read.call.endswith("today") else "datetime"
    return [
        f"  def take_{name}() -> {kind}:",
        f"      return {value}",
        f'  {name} = {_await(tool)}ctx.step("{name}", take_{name})',
    ]


def _written(read: Read) -> tuple[str, str, bool]:
    """What the author's line assigns: the name, the value, and whether that is a moment of `datetime`.

    Of a line that assigns nothing, it is the call, under its own name.
    """
    source = _HEAD.sub("", read.source).removesuffix(":")
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a part of a longer statement
        return _called(read), f"{read.call}()", read.is_clock
    match tree.body:
        case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
            pass
        case [ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)]:
            pass
        case _:
            calls = [node for node in ast.walk(tree) if _is_call(node, read)]
            name, value = _called(read), calls[0] if calls else ast.Name(read.call)
    is_moment = _is_call(value, read) or (isinstance(value, ast.BinOp) and _is_call(value.left, read))
    return name, ast.get_source_segment(source, value) or f"{read.call}()", is_moment and read.is_clock


def _called(read: Read) -> str:
    return read.call.rpartition(".")[2]


def _is_call(node: ast.AST, read: Read) -> TypeGuard[ast.expr]:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == _called(read)


def _step(tool: Tool, name: str, value: str) -> str:
    return f'{_await(tool)}ctx.step("{name}", lambda: {value})'


def _await(tool: Tool) -> str:
    return "await " if tool.is_async else ""
