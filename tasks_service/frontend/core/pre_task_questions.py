"""What a tool wants to know before its task exists, and a prompt before it is written.

The questions that an author declared with `ask=` are put to the client in rounds: a call without all answers
is answered with what is still asked, and the client makes the call again, with answers. Nothing is recorded
meanwhile, no code of the author runs here, and no process remembers the call: what was answered so far
travels with the client (see `request_state`).

The last round may be repeated: all repetitions find the one execution that the first of them made, with the
first one's answers (docs/protocol.md, "questions before the task"; 2026-07-28, multi round-trip requests).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ...domain.errors import AnswerRefused, LimitExceeded, NotJson
from ...domain.limits import Limits, check_size, truncate
from ...domain.questions import FormQuestion, LinkQuestion, RecordedQuestion
from ...domain.task import ClientCapability, EntryKind, JournalEntry, JsonText, Owner, new_token
from ...durable.questions import Question, check_answer, question_digest
from .request_state import TOOL_CALL, Binding, RequestStates, binding_of, refused
from .requests import CapabilityRequired, InputRequired

PROBLEM_BYTES = 512
"""Longest reason for which a question is asked again."""

_PURPOSE = "preflight"


class Asking(Protocol):
    """A tool or a prompt: what declares questions."""

    @property
    def name(self) -> str:
        """Of its kind, the only one of that name."""

    @property
    def ask(self) -> Mapping[str, Question]:
        """The questions, by name."""


class Round(Protocol):
    """A call of it, with what has come of earlier rounds: see `ToolCall`."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Of the call."""

    @property
    def answers(self) -> Mapping[str, Any]:
        """To what was asked."""

    @property
    def state(self) -> str | None:
        """What came with the questions."""


@dataclass(frozen=True, slots=True)
class Answered:
    """All that was asked is answered.

    Attributes:
        journal: The answers, in the order in which the author declared the questions.
        conversation: A name for these rounds, so that their end can be repeated; empty if there was but one.
    """

    journal: tuple[JournalEntry, ...] = ()
    conversation: str = ""


NOTHING_ASKED = Answered()
"""For a tool that declares no questions."""


@dataclass(frozen=True, slots=True)
class _Declared:
    """A declared question, as it is asked and as its answer is recorded."""

    question: RecordedQuestion
    digest: str


@dataclass(slots=True)
class _Rounds:
    """What the rounds so far have brought: answers by key, and why others were refused."""

    conversation: str
    answers: dict[str, JournalEntry] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class PreTaskQuestions:
    """Asks what tools, or what prompts, declare.

    Args:
        states: Seals what travels with the client.
        limits: How large answers may be.
        request: Keeps apart the states of tools and prompts, which may have the same names.
    """

    def __init__(self, states: RequestStates, *, limits: Limits, request: str = TOOL_CALL) -> None:
        self._states = states
        self._limits, self._request = limits, request
        self._declared: dict[str, dict[str, _Declared]] = {}

    def require(self, asking: Asking, capabilities: Collection[ClientCapability]) -> None:
        """Refuse a client that cannot be asked what a tool or prompt asks.

        Raises:
            CapabilityRequired: It names all that is missing.
        """
        needs = {question.needs: None for question in asking.ask.values()}
        if missing := [need for need in needs if need not in capabilities]:
            raise CapabilityRequired(asking.name, missing)

    def next_round(self, owner: Owner, asking: Asking, call: Round) -> Answered | InputRequired:
        """Take the answers of this round; ask for those that are missing or do not fit.

        Raises:
            StateRefused: The state was changed, has expired, or is not of this caller and call.
            LimitExceeded: The answers are too large together.
        """
        declared = self._questions(asking)
        binding = binding_of(owner, asking.name, call.arguments, request=self._request)
        rounds = self._opened(binding, call, declared)
        questions = {key: asked.question for key, asked in declared.items() if key not in rounds.answers}
        fitting, rounds.problems = sort_out(questions, call.answers)
        for key, answer in fitting.items():
            rounds.answers[key] = _entry(key, declared[key].digest, answer)
        answers = "".join(entry.value for entry in rounds.answers.values())
        check_size("answers", answers, self._limits.answers_bytes)
        if missing := [key for key in declared if key not in rounds.answers]:
            questions = {
                key: asked_again(declared[key].question, rounds.problems.get(key)) for key in missing
            }
            return InputRequired(questions=questions, state=self._sealed(binding, rounds))
        journal = tuple(rounds.answers[key] for key in declared)
        return Answered(journal, "" if call.state is None else f"{_PURPOSE} {rounds.conversation}")

    def _questions(self, asking: Asking) -> Mapping[str, _Declared]:
        if asking.name not in self._declared:
            self._declared[asking.name] = {key: _declared(asked) for key, asked in asking.ask.items()}
        return self._declared[asking.name]

    def _sealed(self, binding: Binding, rounds: _Rounds) -> str:
        content = {
            "conversation": rounds.conversation,
            "answers": {key: [entry.digest, entry.value] for key, entry in rounds.answers.items()},
        }
        return self._states.seal(binding, _PURPOSE, content)

    def _opened(self, binding: Binding, call: Round, declared: Mapping[str, _Declared]) -> _Rounds:
        if call.state is None:
            return _Rounds(new_token())
        opened = self._states.open(binding, call.state)
        if opened.purpose != _PURPOSE:
            raise refused("it does not belong to questions that come first")
        answers = {
            key: _entry(key, digest, value)
            for key, (digest, value) in opened.content["answers"].items()
            # A question that was changed by a deployment between two rounds is asked again.
            if key in declared and declared[key].digest == digest
        }
        return _Rounds(opened.content["conversation"], answers)


def _declared(question: Question) -> _Declared:
    return _Declared(question.recorded(), question_digest(question))


def sort_out(
    questions: Mapping[str, RecordedQuestion], answers: Mapping[str, Any]
) -> tuple[dict[str, JsonText], dict[str, str]]:
    """Tell answers that fit from those that do not.

    Args:
        questions: What is asked, by key.
        answers: By key, as they came; those to no question are ignored.

    Returns:
        The answers that fit, as they are recorded; and why the others do not.
    """
    fitting, problems = {}, {}
    for key, question in questions.items():
        if key in answers:
            try:
                fitting[key] = check_answer(key, question, answers[key])
            except AnswerRefused as error:
                problems[key] = f"{error.path}: {error.problem}" if error.path else error.problem
            except (LimitExceeded, NotJson) as error:
                problems[key] = str(error)
    return fitting, problems


def asked_again(question: RecordedQuestion, problem: str | None) -> RecordedQuestion:
    """The question, with what was wrong with the last answer to it, where the question has a text."""
    if not problem or not isinstance(question, FormQuestion | LinkQuestion):
        return question
    refused = f"The last answer was refused: {truncate(problem, PROBLEM_BYTES)}"
    return replace(question, message=f"{question.message}\n\n{refused}")


def _entry(key: str, digest: str, value: JsonText) -> JournalEntry:
    return JournalEntry(kind=EntryKind.ANSWER, name=key, digest=digest, value=value)
