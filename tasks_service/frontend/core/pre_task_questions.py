"""Questions of a tool before its task exists, and of a prompt before it is written.

The questions that an author declared with `ask=` are put to the client in rounds: a call without all answers
is answered with what is still asked, and the client makes the call again, with answers. Nothing is recorded
meanwhile, no code of the author runs here, and no process remembers the call: what was answered so far
travels with the client (see `request_state`).

The last round may be repeated: all repetitions find the one execution that the first of them made, with the
first one's answers (docs/protocol.md, "questions before the task"; 2026-07-28, multi round-trip requests).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ...domain.limits import Limits, check_size
from ...domain.questions import RecordedQuestion
from ...domain.task import ClientCapability, EntryKind, JournalEntry, JsonText, Owner, new_token
from ...durable.questions import question_digest
from .answers import asked_again, check_answers
from .request_state import TOOL_CALL, Binding, RequestStates, binding_of, refused
from .requests import CapabilityRequired, InputRequired, PromptCall, ToolCall

_PURPOSE = "preflight"


@dataclass(frozen=True, slots=True)
class Asking:
    """A tool or a prompt that declares questions.

    Attributes:
        name: Its name.
        questions: The questions, by name, in the order in which they are asked.
    """

    name: str
    questions: Mapping[str, RecordedQuestion]


Round = ToolCall | PromptCall
"""A call of a tool or prompt, with what earlier rounds brought."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome when all that was asked is answered.

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
    """The answers of the rounds so far, by key."""

    conversation: str
    answers: dict[str, JournalEntry] = field(default_factory=dict)


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

    def require(self, asking: Asking, capabilities: Collection[ClientCapability]) -> None:
        """Refuse a client that cannot be asked what a tool or prompt asks.

        Raises:
            CapabilityRequired: It names all that is missing.
        """
        needs = {question.kind: None for question in asking.questions.values()}
        if missing := [need for need in needs if need not in capabilities]:
            raise CapabilityRequired(asking.name, missing)

    def next_round(self, owner: Owner, asking: Asking, call: Round) -> Answered | InputRequired:
        """Take the answers of this round; ask for those that are missing or do not fit.

        Raises:
            StateRefused: The state was changed, has expired, or is not of this caller and call.
            LimitExceeded: The answers are too large together.
        """
        declared = {
            key: _Declared(question, question_digest(question)) for key, question in asking.questions.items()
        }
        binding = binding_of(owner, asking.name, call.arguments, request=self._request)
        rounds = self._opened(binding, call, declared)
        questions = {key: asked.question for key, asked in declared.items() if key not in rounds.answers}
        checked = check_answers(questions, call.answers, self._limits)
        for key, answer in checked.fitting.items():
            rounds.answers[key] = _entry(key, declared[key].digest, answer)
        answers = "".join(entry.value for entry in rounds.answers.values())
        check_size("answers", answers, self._limits.answers_bytes)
        if missing := [key for key in declared if key not in rounds.answers]:
            questions = {
                key: asked_again(declared[key].question, checked.problems.get(key)) for key in missing
            }
            return InputRequired(questions=questions, state=self._sealed(binding, rounds))
        journal = tuple(rounds.answers[key] for key in declared)
        return Answered(journal, "" if call.state is None else f"{_PURPOSE} {rounds.conversation}")

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


def _entry(key: str, digest: str, value: JsonText) -> JournalEntry:
    return JournalEntry(kind=EntryKind.ANSWER, name=key, digest=digest, value=value)
