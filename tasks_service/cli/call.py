"""`tasks-service call`: call a tool over MCP, and wait for its result."""

from __future__ import annotations

import asyncio
import difflib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, CallToolResult, Tool

from ..client.service_client import (
    OUTAGE_SECONDS,
    CannotConnect,
    ServiceClient,
    StillRuns,
    TaskEnded,
    connect,
)
from ..domain.names import is_name
from ..domain.tools import COMPANION_TOOLS
from ..local.ports import http_url
from .answers import Answerer, PreparedAnswer, Unanswered, parse_answer
from .application import settings_of
from .progress import ProgressBar
from .results import readable_text, save

#: Exit statuses: ended by Ctrl-C, as shells expect it; a question is open that could not be answered.
INTERRUPTED, UNANSWERED = 130, 3
#: Seconds for which the service may be starting, or starting again with other code.
STARTING_SECONDS = 5.0


def _id_of_task(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and is_name(value):
        raise click.BadParameter(
            f"expected a task's id, as `call` has printed it. {value} is its short name, which tells nobody "
            f"the id: `tasks-service inspect {value}` shows it to operators, as task_id."
        )
    return value


@click.command()
@click.argument("tool")
@click.argument("arguments", default="{}", metavar="[JSON]")
@click.option("--arg", "pairs", multiple=True, metavar="NAME=VALUE", help="One argument; may be repeated.")
@click.option("--url", envvar="TASKS_URL", help="The MCP endpoint. [default: where this service listens]")
@click.option("--key", envvar="TASKS_KEY", help="An API key, if the service wants one.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the result here: an image as such, anything else as text.",
)
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="KEY=JSON|KEY.FIELD=VALUE",
    help="Answer the question KEY: all of it, or one field; true or false answers a link. May be repeated.",
)
@click.option(
    "--resume",
    metavar="TASK_ID",
    callback=_id_of_task,
    help="Go on with this task of TOOL instead of a new call.",
)
def call(
    tool: str,
    arguments: str,
    pairs: Sequence[str],
    url: str | None,
    key: str | None,
    output: Path | None,
    answers: Sequence[str],
    resume: str | None,
) -> None:
    """Call TOOL and wait, with a progress bar; Ctrl-C cancels the task.

    Arguments are one JSON object, or --arg NAME=VALUE pairs, or both. What the tool asks is asked in the
    terminal, unless --answer has answered it; Ctrl-D declines. Exit status: 0 for a result, 1 for a tool's
    error, 2 if the call could not be made, 3 if a question is open that nobody here can answer: the task
    waits for --resume.
    """
    given = _object(arguments)
    prepared = [parse_answer(text) for text in answers]
    try:
        result = asyncio.run(_call(url or _own_url(), key, tool, given, pairs, prepared, resume))
    except Unanswered as waiting:
        click.echo(waiting.explanation(tool), err=True)
        sys.exit(UNANSWERED)
    except KeyboardInterrupt:
        click.echo("Cancelled.", err=True)
        sys.exit(INTERRUPTED)
    except StillRuns as error:
        click.echo(str(error), err=True)
        sys.exit(INTERRUPTED)
    except TaskEnded:
        raise
    except MCPError as error:
        if error.code == CONNECTION_CLOSED:
            raise CannotConnect(f"{error}. Nobody has answered for {OUTAGE_SECONDS:g} s.") from error
        raise CannotConnect(f"The server refused the call: {error} (error {error.code})") from error
    if output is not None or not result.is_error:
        for path in save(result, tool, output):
            click.echo(f"Saved {path}", err=True)
    text = readable_text(result)
    if text and (output is None or result.is_error):
        click.echo(text, err=bool(result.is_error))
    sys.exit(1 if result.is_error else 0)


def _own_url() -> str:
    settings = settings_of()
    return http_url(settings.host, settings.port, "/mcp")


async def _call(
    url: str,
    key: str | None,
    name: str,
    given: Mapping[str, Any],
    pairs: Sequence[str],
    prepared: Sequence[PreparedAnswer],
    resume: str | None,
) -> CallToolResult:
    with ProgressBar(name) as bar:
        answerer = Answerer(prepared, bar)
        async with connect(url, key, answerer.answer, starting_seconds=STARTING_SECONDS) as client:
            tool = await find_tool(client, name)
            if resume is not None:
                return await client.follow(await client.get(resume), bar.watch)
            arguments = {**given, **dict(_argument(tool, pair) for pair in pairs)}
            return await client.call(name, arguments, bar.watch)


async def find_tool(client: ServiceClient, name: str) -> Tool:
    """The tool of a name, as the server lists it.

    Raises:
        click.UsageError: It lists none of that name; the message says what to call instead.
    """
    tools = {tool.name: tool for tool in await client.tools()}
    if name not in tools:
        raise click.UsageError(f"The server has no tool {name!r}. {_instead(name, tools)}")
    return tools[name]


def _instead(name: str, tools: Collection[str]) -> str:
    """What to call in place of a tool that is not there."""
    authors = [tool for tool in tools if tool not in COMPANION_TOOLS]
    if not authors:
        return (
            "It lists none: a front end without code lists tools once a worker has announced them "
            "(`tasks-service workers`)."
        )
    nearest = difflib.get_close_matches(name, authors, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"It has: {', '.join(authors)}."


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"The arguments are not JSON ({error}): {text}") from None
    if not isinstance(value, dict):
        raise click.UsageError(
            f'The arguments must be one JSON object, such as \'{{"path": "a.csv"}}\': {text}'
        )
    return value


def _argument(tool: Tool, pair: str) -> tuple[str, Any]:
    """Parse `name=value`: a text if the schema says string, else JSON if it is JSON."""
    name, equals, value = pair.partition("=")
    if not (name and equals):
        raise click.UsageError(f"--arg {pair}: expected NAME=VALUE")
    if tool.input_schema.get("properties", {}).get(name, {}).get("type") == "string":
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
