"""Answers to a tool's questions, from the command line or from a person at the terminal.

A form is asked property by property, a link is shown; Ctrl-D declines. Without a terminal, and without a
prepared answer to any open question, `Unanswered` is raised.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from mcp_types import (
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequest,
)
from rich.console import Console
from rich.markup import escape

from ..client.service_client import Asked
from ..domain.errors import TasksServiceError
from .progress import ProgressBar
from .prompts import Schema, ask_agreement, ask_property, kind_of, read_property

T = TypeVar("T")

ACTIONS = ("accept", "decline", "cancel")


class Unanswered(TasksServiceError):
    """A tool has questions, and there is neither a terminal nor a prepared answer.

    Attributes:
        asked: The questions.
    """

    def __init__(self, asked: Asked) -> None:
        super().__init__(f"Nobody answers: {', '.join(asked.requests)}")
        self.asked = asked

    def explanation(self, tool: str) -> str:
        """A text that lists the open questions, and how they can be answered."""
        lines = [] if self.asked.problem is None else [self.asked.problem]
        for key, request in self.asked.requests.items():
            lines += [f"The tool asks ({key}): {_wording(request)}", *_answer_options(key, request)]
        if self.asked.task_id is None:
            lines.append("No task was made; make the call again with --answer.")
        else:
            lines += [
                f"The task waits: {self.asked.task_id}",
                f"Answer with: tasks-service call {tool} --resume {self.asked.task_id} --answer ...",
            ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """One `--answer`: the text before the first `=`, and the text after it."""

    name: str
    value: str


def parse_answer(text: str) -> PreparedAnswer:
    """Parse one `KEY=JSON` or `KEY.FIELD=VALUE`.

    Raises:
        UsageError: It is neither.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.UsageError(f"--answer {text}: expected KEY=JSON or KEY.FIELD=VALUE")
    prepared = PreparedAnswer(name, value)
    if "." not in name:
        _whole_answer(prepared)
    return prepared


class Answerer:
    """Answers questions: first with prepared answers, then by asking the person at the terminal.

    Args:
        prepared: Answers from the command line; each is used once, so that a refused one is not sent again.
        bar: The progress bar, hidden while a person is asked.
        console: The console to ask on; stderr if not given.
    """

    def __init__(
        self, prepared: Sequence[PreparedAnswer], bar: ProgressBar, console: Console | None = None
    ) -> None:
        self._prepared = list(prepared)
        self._bar = bar
        self._console = console or Console(stderr=True)

    async def answer(self, asked: Asked) -> Mapping[str, ElicitResult]:
        """Answer at least one of the questions.

        Raises:
            Unanswered: None of them can be answered.
        """
        requests = {
            key: asking for key, asking in asked.requests.items() if isinstance(asking, ElicitRequest)
        }
        ready = {key: self._take_prepared(key, request) for key, request in requests.items()}
        answers = {key: answer for key, answer in ready.items() if answer is not None}
        if answers:
            return answers
        if not requests or not sys.stdin.isatty():
            raise Unanswered(asked)
        with self._bar.hidden():
            return await _in_thread(lambda: self._ask(requests, asked.problem))

    def _take_prepared(self, key: str, request: ElicitRequest) -> ElicitResult | None:
        """Take the prepared answer to a question; None if there is none."""
        mine = [prepared for prepared in self._prepared if _answers_key(prepared, key)]
        if not mine:
            return None
        self._prepared = [prepared for prepared in self._prepared if prepared not in mine]
        fields: dict[str, Any] = {}
        for prepared in mine:
            if prepared.name == key:
                whole = _whole_answer(prepared)
                if whole.action != "accept":
                    return whole
                fields.update(whole.content or {})
            else:
                name = prepared.name.removeprefix(f"{key}.")
                fields[name] = _typed(prepared.value, _properties(request).get(name, {}))
        return _accepted(request, fields)

    def _ask(self, requests: Mapping[str, ElicitRequest], problem: str | None) -> dict[str, ElicitResult]:
        if problem is not None:
            self._console.print(f"[red]{escape(problem)}")
        return {key: self._ask_one(request) for key, request in requests.items()}

    def _ask_one(self, request: ElicitRequest) -> ElicitResult:
        self._console.print(f"[bold]{escape(_wording(request))}[/bold] [dim](Ctrl-D declines)[/dim]")
        try:
            values = self._values(request)
        except EOFError:
            self._console.print()
            values = None
        return ElicitResult(action="decline") if values is None else _accepted(request, values)

    def _values(self, request: ElicitRequest) -> dict[str, Any] | None:
        """The values that a person enters; None if they do not agree. Raises EOFError for Ctrl-D."""
        properties, required = _properties(request), _required(request)
        if not properties and not ask_agreement(self._console):
            return None
        values = {
            name: ask_property(name, schema, required=name in required, console=self._console)
            for name, schema in properties.items()
        }
        return {name: value for name, value in values.items() if value is not None}


def _answers_key(prepared: PreparedAnswer, key: str) -> bool:
    return prepared.name == key or prepared.name.startswith(f"{key}.")


def _whole_answer(prepared: PreparedAnswer) -> ElicitResult:
    """Parse the value of `KEY=`: an action, true or false, a full answer, or the values of a form."""
    if prepared.value in ACTIONS:
        return ElicitResult.model_validate({"action": prepared.value})
    try:
        value = json.loads(prepared.value)
    except ValueError:
        value = None
    if isinstance(value, bool):
        return ElicitResult(action="accept" if value else "decline")
    if not isinstance(value, dict):
        raise click.UsageError(
            f"--answer {prepared.name}={prepared.value}: expected a JSON object of values, "
            "or true, false, accept, decline, cancel"
        )
    try:
        return ElicitResult.model_validate(
            value if value.get("action") in ACTIONS else {"action": "accept", "content": value}
        )
    except ValueError as error:
        raise click.UsageError(
            f"--answer {prepared.name}: the values of a form are text, numbers, true, false or lists of text"
        ) from error


def _accepted(request: ElicitRequest, fields: Mapping[str, Any]) -> ElicitResult:
    if isinstance(request.params, ElicitRequestURLParams):
        return ElicitResult(action="accept")
    return ElicitResult(action="accept", content=dict(fields))


def _typed(text: str, schema: Schema) -> Any:
    """A text converted to the schema's type; unchanged if it cannot be, so that the server refuses it."""
    try:
        return read_property(text, schema)
    except ValueError:
        return text


def _properties(request: ElicitRequest) -> Mapping[str, Schema]:
    if not isinstance(request.params, ElicitRequestFormParams):
        return {}
    properties: Mapping[str, Schema] = request.params.requested_schema.get("properties", {})
    return properties


def _required(request: ElicitRequest) -> Sequence[str]:
    if not isinstance(request.params, ElicitRequestFormParams):
        return ()
    required: Sequence[str] = request.params.requested_schema.get("required", ())
    return required


def _wording(request: InputRequest) -> str:
    if not isinstance(request, ElicitRequest):
        return f"{request.method}, which this command cannot answer"
    if isinstance(request.params, ElicitRequestURLParams):
        return f"{request.params.message}\n{request.params.url}"
    return request.params.message


def _answer_options(key: str, request: InputRequest) -> list[str]:
    """Lines that show how to answer a question on the command line."""
    if not isinstance(request, ElicitRequest):
        return []
    properties = _properties(request)
    if not properties:
        return [f"  --answer {key}=true, or {key}=false to decline"]
    return [f"  --answer {key}.{name}=... [{kind_of(schema)}]" for name, schema in properties.items()] + [
        f"  or --answer {key}=decline"
    ]


async def _in_thread(work: Callable[[], T]) -> T:
    """Run a blocking function in a daemon thread, which Ctrl-C does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def resolve(value: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        # A signal that the system delivers to this thread would not wake the event loop that handles it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            value = work()
        except Exception as error:
            loop.call_soon_threadsafe(resolve, None, error)
        else:
            loop.call_soon_threadsafe(resolve, value, None)

    threading.Thread(target=run, name="prompt", daemon=True).start()
    return await done
