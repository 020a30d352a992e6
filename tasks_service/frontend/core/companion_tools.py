"""Tools with which a model follows a task that its call began, where its client knows no tasks.

A call that takes long is answered, for a client that knows no tasks, with a text that names the task and says
what to call next (`handle_text`). What is called then are these four. They run here, in the front end: they
read and move tasks, and no worker is needed. They are written for a model: its reader acts on what they say.

Whether they are listed is a setting, the same for every client (2026-07-28: lists do not vary per
connection); where they are not, nobody is given such a text, and calls wait (docs/protocol.md, "handles for
clients without tasks").
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field

from ...authoring.tool import Rendered, Tool, build_tool, rendered
from ...domain.errors import InvalidTransition, TaskNotFound
from ...domain.events import Cancel
from ...domain.limits import Limits
from ...domain.questions import FormQuestion, LinkQuestion, RecordedQuestion, headline, open_questions
from ...domain.scopes import ANSWER, CANCEL, READ
from ...domain.task import Owner, Task, TaskStatus
from ...domain.tools import COMPANION_TOOLS, OfferedTool, TaskSupport, ToolDefinition, Tools, ToolSet
from ...durable.annotations import ToolAnnotations
from ...durable.content import ToolResult
from ...observability.context import note_task
from ...store.clients import AsyncClientStore, TaskView
from ...store.registry import RegistryView
from .answers import check_answers, record_answers
from .catalogue import Catalogue, OfVersion, Origin
from .hand_over import HandOverTimes
from .requests import ToolCall
from .stopping import FrontEndStops, Stopping

logger = logging.getLogger(__name__)

TASK_STATUS, TASK_RESULT, TASK_ANSWER, TASK_CANCEL = COMPANION_TOOLS

_SCOPES: Final = {TASK_STATUS: READ, TASK_RESULT: READ, TASK_ANSWER: ANSWER, TASK_CANCEL: CANCEL}
"""What a caller must be allowed: what each does, not to call tools."""

WAIT_SECONDS = 30.0
"""How long `task_result` waits unless it is told otherwise."""

_POLL_SECONDS: Final = 10

Wait = Callable[[Task, float], Awaitable[TaskView]]
"""Waits until a task has ended, or asks what nobody is asked meanwhile; after the seconds, `TimeoutError`."""

Asked = TypeVar("Asked")
Ask = Callable[[Task, Mapping[str, str]], Asked | None]
"""What the client is asked for a task, with what was wrong with its answers; None if it cannot be."""


class OpenQuestion(BaseModel):
    """A question that a task waits for."""

    key: str = Field(description="Names the question in `answers` of task_answer.")
    message: str = Field(description="What is asked.")
    answered_by: Literal["model", "human"] = Field(
        description="'model': you may answer, with task_answer. 'human': only the person may, see `next`."
    )
    answer_schema: dict[str, Any] | None = Field(None, description="JSON schema of the answer's values.")


class TaskReport(BaseModel):
    """How a task is."""

    task_id: str
    tool: str = Field(description="The tool that was called.")
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    message: str | None = Field(None, description="What goes on, in a sentence.")
    progress: float | None = Field(None, description="How far it is.")
    total: float | None = Field(None, description="Of how much.")
    questions: list[OpenQuestion] = Field(default_factory=list, description="What it waits to be told.")
    next: str = Field(description="What to do now.")


TaskId = Annotated[str, Field(description="The id of the task, as an earlier result named it.")]
Answers = Annotated[
    dict[str, dict[str, Any] | Literal["decline"]],
    Field(
        description="By the question's key: an object with the values that its answer_schema asks for, "
        'or the text "decline" to refuse an answer.'
    ),
]


class CompanionTools:
    """The four tools.

    Args:
        store: Where tasks are.
        limits: What is allowed.
        times: How long `task_result` may wait: as a call may.
        stopping: Ends its wait when the front end stops.
    """

    def __init__(
        self, store: AsyncClientStore, *, limits: Limits, times: HandOverTimes, stopping: Stopping
    ) -> None:
        self._store, self._limits, self._times, self._stopping = store, limits, times, stopping
        self.tools = _definitions(times.of(""))

    def beside(self, catalogue: Catalogue) -> Catalogue:
        """The tools of a catalogue, and these; one with the name of one of these is not offered."""
        return _Beside(catalogue, self.tools)

    async def call(
        self, owner: Owner, call: ToolCall, *, wait: Wait, ask: Ask[Asked]
    ) -> Rendered | TaskView | Asked:
        """Call one of them.

        Args:
            owner: Who calls.
            call: Of one of `tools`.
            wait: Waits for a task, and asks the client meanwhile where it can be asked.
            ask: Asks by a result, where the client is asked so.

        Returns:
            The result; or a task that has completed, whose result it is; or what the client is asked.

        Raises:
            InvalidArguments, NotJson, LimitExceeded: The arguments are refused.
            StoreUnavailable: No answer in time.
        """
        tool = self.tools.find(call.tool)
        note_task("", tool.name)
        tool.check_arguments(call.arguments, self._limits)
        arguments = tool.bind(call.arguments)
        try:
            view = await self._store.get(owner, arguments["task_id"])
            match tool.name:
                case "task_status":
                    return self._reported(view.task)
                case "task_result":
                    seconds = min(arguments["wait_seconds"], self._times.of(call.client))
                    return await self._result(view, call, seconds, wait, ask)
                case "task_answer":
                    return await self._answer(view.task, arguments["answers"])
                case _:
                    return await self._cancel(view.task)
        except TaskNotFound:
            return _said("There is no such task: the id is wrong, or the task has expired.", is_error=True)

    async def _result(
        self, view: TaskView, call: ToolCall, seconds: float, wait: Wait, ask: Ask[Asked]
    ) -> Rendered | TaskView | Asked:
        task = view.task
        answers = call.answers if call.state is not None else {}
        checked = check_answers(open_questions(task), answers, self._limits)
        await record_answers(self._store, task.owner, task.task_id, checked.fitting)
        try:
            async with self._stopping.ends_wait():
                latest = await wait(task, seconds)
        except (TimeoutError, FrontEndStops):
            latest = await self._store.get(task.owner, task.task_id)
        task = latest.task
        if task.status is TaskStatus.COMPLETED:
            return latest
        if task.status is TaskStatus.INPUT_REQUIRED and (asked := ask(task, checked.problems)) is not None:
            return asked
        return _said(handle_text(task), is_error=task.status.is_final)

    async def _answer(self, task: Task, answers: Mapping[str, Any]) -> Rendered:
        """Record all answers or none, as `tasks/update` does; but refuse unknown keys."""
        questions = open_questions(task)
        for key in answers:
            if key not in questions:
                return _said(f"{key}: no such question is open. {handle_text(task)}", is_error=True)
            if not _for_model(questions[key]):
                return _said(f"{key}: a human must answer: {_message(questions[key])}", is_error=True)
        given = {key: _as_answer(answer) for key, answer in answers.items()}
        checked = check_answers(questions, given, self._limits)
        if checked.refused:
            told = "; ".join(f"{key}: {problem}" for key, problem in checked.problems.items())
            return _said(f"Nothing was recorded, since an answer does not fit: {told}", is_error=True)
        changed = await record_answers(self._store, task.owner, task.task_id, checked.fitting)
        return self._reported(changed or await self._latest(task))

    async def _cancel(self, task: Task) -> Rendered:
        try:
            return self._reported(await self._store.apply(task.owner, task.task_id, Cancel()))
        except InvalidTransition:
            return self._reported(await self._latest(task))

    async def _latest(self, task: Task) -> Task:
        return (await self._store.get(task.owner, task.task_id)).task

    def _reported(self, task: Task) -> Rendered:
        report = TaskReport(
            task_id=task.task_id,
            tool=task.tool,
            status=task.status.value,
            message=task.status_message,
            progress=None if task.progress is None else task.progress.current,
            total=None if task.progress is None else task.progress.total,
            questions=[_open_question(key, asked) for key, asked in open_questions(task).items()],
            next=_next(task),
        )
        structured = report.model_dump(mode="json", exclude_none=True)
        return rendered(ToolResult(handle_text(task), structured_content=structured).recorded(), self._limits)


class _Beside:
    """A catalogue with the companion tools in it; see `Catalogue`."""

    def __init__(self, catalogue: Catalogue, companions: ToolSet[OfferedTool]) -> None:
        self._catalogue, self._companions = catalogue, companions
        self._all = OfVersion(catalogue, self._together)
        self.changed, self.ttl_ms, self.hides = catalogue.changed, catalogue.ttl_ms, catalogue.hides

    @property
    def version(self) -> int:
        return self._catalogue.version

    @property
    def tools(self) -> ToolSet[OfferedTool]:
        return self._all()

    def origin(self, tool: str) -> Origin:
        return self._catalogue.origin(tool)

    def shown(self, task: Task) -> Task | None:
        return self._catalogue.shown(task)

    def conflicts(self, others: Iterable[RegistryView]) -> Iterable[str]:
        return self._catalogue.conflicts(others)

    def _together(self, tools: ToolSet[OfferedTool]) -> ToolSet[OfferedTool]:
        if taken := sorted(set(tools) & set(self._companions)):
            logger.warning(
                "Tools with the names of the front end's own are not offered: %s. Give them "
                "another name=, or set TASKS_COMPANION_TOOLS=false here too",
                ", ".join(taken),
            )
        return Tools(*({**tools, **self._companions}.values()))


def handle(task: Task, tool: ToolDefinition) -> Rendered:
    """The answer to a call that takes long, for a client that knows no tasks.

    Of a tool with an output schema it is an error: clients validate what is not (docs/protocol.md, "handles
    for clients without tasks").
    """
    return _said(handle_text(task), is_error=tool.output_schema is not None)


def handle_text(task: Task) -> str:
    """A text that says how a task is, its id, and what to do next."""
    return f"{_state(task)} {_next(task)}"


def _state(task: Task) -> str:
    name = f"The tool '{task.tool}' (task_id \"{task.task_id}\")"
    match task.status:
        case TaskStatus.WORKING:
            return _sentence(f"{name} is still running in the background{_progress(task)}")
        case TaskStatus.INPUT_REQUIRED:
            asked = "; ".join(f"{key}: {_message(q)}" for key, q in open_questions(task).items())
            return _sentence(f"{name} waits for an answer to {asked}")
        case TaskStatus.COMPLETED:
            return f"{name} has completed."
        case TaskStatus.CANCELLED:
            return f"{name} was cancelled."
        case _:
            return _sentence(f"{name} has failed: {task.status_message or 'it did not say why'}")


def _sentence(text: str) -> str:
    """A text that another sentence may follow, whatever an author's words in it end with."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _next(task: Task) -> str:
    this = f'with task_id "{task.task_id}"'
    match task.status:
        case TaskStatus.WORKING:
            return (
                f"To get its result, call {TASK_RESULT} {this}; it waits for the end. Do not call the tool "
                f"again. {TASK_STATUS} tells how it is, in {_POLL_SECONDS} seconds or later; {TASK_CANCEL} "
                "stops it."
            )
        case TaskStatus.INPUT_REQUIRED:
            keys = [key for key, asked in open_questions(task).items() if _for_model(asked)]
            told = f"Answer {', '.join(keys)} with {TASK_ANSWER}. " if keys else ""
            rest = len(keys) < len(task.inputs)
            human = "A human must answer" + (" the rest" if keys else "")
            return told + (
                f"{human}: tell the user, and call {TASK_RESULT} {this}, which asks where the client can."
                if rest
                else f"Then call {TASK_RESULT} {this}."
            )
        case TaskStatus.COMPLETED:
            return f"Call {TASK_RESULT} {this} to get its result."
        case _:
            return "There is nothing to wait for; the tool may be called again."


def _progress(task: Task) -> str:
    if task.progress is None:
        return f": {task.status_message}" if task.status_message else ""
    total = "" if task.progress.total is None else f" of {task.progress.total:g}"
    message = f", {task.progress.message}" if task.progress.message else ""
    return f", at {task.progress.current:g}{total}{message}"


def _for_model(question: RecordedQuestion) -> bool:
    return isinstance(question, FormQuestion) and question.model_may_answer


def _message(question: RecordedQuestion) -> str:
    link = f" ({question.url})" if isinstance(question, LinkQuestion) else ""
    return headline(question) + link


def _open_question(key: str, question: RecordedQuestion) -> OpenQuestion:
    return OpenQuestion(
        key=key,
        message=_message(question),
        answered_by="model" if _for_model(question) else "human",
        answer_schema=dict(question.schema) if isinstance(question, FormQuestion) else None,
    )


def _as_answer(given: Mapping[str, Any] | str) -> dict[str, Any]:
    return {"action": "decline"} if isinstance(given, str) else {"action": "accept", "content": dict(given)}


def _said(text: str, *, is_error: bool) -> Rendered:
    return rendered(ToolResult(text, is_error=is_error).recorded())


def _definitions(longest_wait: float) -> ToolSet[Tool]:
    seconds = Field(
        ge=0, le=longest_wait, description="How long to wait for the end, in seconds; 0 to look only."
    )

    def of_task(task_id: TaskId) -> None: ...

    def waiting(
        task_id: TaskId,
        wait_seconds: Annotated[float, seconds] = min(WAIT_SECONDS, longest_wait),
    ) -> None: ...

    def answering(task_id: TaskId, answers: Answers) -> None: ...

    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    answers = replace(reads, read_only_hint=False, destructive_hint=False)
    cancels = replace(reads, read_only_hint=False, destructive_hint=True)
    made = []
    for name, title, description, taking, hints in (
        (
            TASK_STATUS,
            "Status of a task",
            "Tell how a tool call is that runs in the background as a task: whether it still works, how far "
            "it is, what it asks, and what to do next. Answers at once.",
            of_task,
            reads,
        ),
        (
            TASK_RESULT,
            "Result of a task",
            "Wait for a tool call that runs in the background as a task, and return the tool's own result. "
            "If it is not there in time, say how the task is; then call this again. Where the task asks "
            "something that a human must answer, the user is asked.",
            waiting,
            reads,
        ),
        (
            TASK_ANSWER,
            "Answer a task",
            "Answer questions of a task on behalf of the user. Only questions that task_status shows as "
            "answered by 'model' can be answered; answer only what you know. All answers are taken, or none.",
            answering,
            answers,
        ),
        (
            TASK_CANCEL,
            "Cancel a task",
            "Stop a tool call that runs in the background as a task. What it has done stays done; its result "
            "is lost. A task that has ended stays as it is.",
            of_task,
            cancels,
        ),
    ):
        tool = build_tool(
            taking,
            name=name,
            title=title,
            description=description,
            annotations=hints,
            support=TaskSupport.FORBIDDEN,
            scopes=(_SCOPES[name],),
            namespace=locals(),
        )
        # What `task_result` returns has the schema of another tool.
        schema = None if name == TASK_RESULT else TaskReport.model_json_schema()
        definition = replace(tool.definition, output_schema=schema, wraps_output=False)
        made.append(replace(tool, definition=definition, fn=None))
    return Tools(*made)
