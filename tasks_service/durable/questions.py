"""The questions that a tool can ask its client, and the checking and reading of answers.

A form's schema is lowered to what MCP clients can render (see `forms`). What the lowering drops (patterns,
exclusive bounds) is kept as `FormQuestion.check`, so that the front end refuses an answer that does not fit
and the question stays open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from ..domain.errors import AnswerRefused, ClientError, ConfigurationError
from ..domain.limits import DEFAULT_LIMITS, to_json
from ..domain.questions import FormQuestion, LinkQuestion, RecordedQuestion, RootsQuestion, SamplingQuestion
from ..domain.task import ClientCapability, JsonText
from .content import Message, recorded_message
from .forms import lower, problem_of, without_wording
from .links import check_link
from .replies import ModelReply, Root, SentReply, SentRoots, recorded_reply, recorded_root
from .sdk_objects import SDKObject


@dataclass(frozen=True, slots=True)
class Declined:
    """The person said no."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The person dismissed the question without an answer."""


class _Error(BaseModel, defer_build=True):
    code: int
    message: str


class _ErrorAnswer(BaseModel, defer_build=True):
    error: _Error


class Question(Protocol):
    """A question of any kind."""

    @property
    def needs(self) -> ClientCapability:
        """The capability that the client must have declared."""

    def recorded(self) -> RecordedQuestion:
        """Return the question as it is recorded."""

    def read(self, answer: Any) -> Any:
        """Return what the tool gets for a recorded answer."""

    def write(self, value: Any) -> dict[str, Any]:
        """Return the answer that `read` turns into this value."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form that a person fills in.

    Attributes:
        message: The text that the person reads.
        schema: A pydantic model, or a JSON schema of an object with primitive properties.
        model_may_answer: Whether a model may answer in the person's place, where its client knows no tasks.
    """

    message: str
    schema: type[BaseModel] | Mapping[str, Any]
    model_may_answer: bool = False

    needs = ClientCapability.FORM

    def recorded(self) -> FormQuestion:
        """See `Question.recorded`.

        Raises:
            ConfigurationError: Clients cannot render the schema; the message names the property.
        """
        full = self.schema if isinstance(self.schema, Mapping) else self.schema.model_json_schema()
        lowered = lower(full)
        return FormQuestion(
            message=self.message,
            schema=lowered,
            check=None if lowered == full else dict(full),
            model_may_answer=self.model_may_answer,
        )

    def read(self, answer: Any) -> Any:
        """See `Question.read`: the model, the plain values, `Declined` or `Cancelled`."""
        if (refusal := _not_accepted(answer)) is not None:
            return refusal
        content = answer.get("content") or {}
        return content if isinstance(self.schema, Mapping) else self.schema.model_validate(content)

    def write(self, value: Any) -> dict[str, Any]:
        """See `Question.write`."""
        content = (
            value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else dict(value)
        )
        return {"action": "accept", "content": content}


@dataclass(frozen=True, slots=True)
class Link:
    """A page that the person is asked to visit; accepting is consent, not completion.

    Attributes:
        message: Why the person should visit it.
        url: The page, with https, or http on a loopback address; never one that is already authenticated.
    """

    message: str
    url: str

    needs = ClientCapability.URL

    def recorded(self) -> LinkQuestion:
        """See `Question.recorded`.

        Raises:
            ConfigurationError: The URL is none that a person may be sent to.
        """
        return LinkQuestion(message=self.message, url=check_link(self.url))

    def read(self, answer: Any) -> Literal[True] | Declined | Cancelled:
        """See `Question.read`; True if the person agreed to go there."""
        return _not_accepted(answer) or True

    def write(self, value: Literal[True]) -> dict[str, Any]:
        """See `Question.write`."""
        return {"action": "accept"}


@dataclass(frozen=True, slots=True)
class Sampling:
    """A completion by the client's model (deprecated in 2026-07-28).

    Attributes:
        messages: What the model is told: a text, or a sequence of texts and messages of text, images, audio.
        max_tokens: The longest completion.
        system_prompt: None leaves that to the client.
    """

    messages: str | Sequence[str | Message | SDKObject]
    max_tokens: int
    system_prompt: str | None = None

    needs = ClientCapability.SAMPLING

    def recorded(self) -> SamplingQuestion:
        """See `Question.recorded`.

        Raises:
            TypeError: A message is none that a model can be sent.
        """
        given = [self.messages] if isinstance(self.messages, str) else self.messages
        messages = [_said(recorded_message(message, "SamplingMessage")) for message in given]
        return SamplingQuestion(
            messages=messages, max_tokens=self.max_tokens, system_prompt=self.system_prompt
        )

    def read(self, answer: Any) -> ModelReply:
        """See `Question.read`."""
        return SentReply.model_validate(_no_error(answer)).reply()

    def write(self, value: ModelReply) -> dict[str, Any]:
        """See `Question.write`."""
        return recorded_reply(value)


@dataclass(frozen=True, slots=True)
class Roots:
    """The client's roots (deprecated in 2026-07-28)."""

    needs = ClientCapability.ROOTS

    def recorded(self) -> RootsQuestion:
        """See `Question.recorded`."""
        return RootsQuestion()

    def read(self, answer: Any) -> list[Root]:
        """See `Question.read`."""
        return SentRoots.model_validate(_no_error(answer)).read()

    def write(self, value: Sequence[Root]) -> dict[str, Any]:
        """See `Question.write`."""
        return {"roots": [recorded_root(root) for root in value]}


def declared_questions(what: str, ask: Mapping[str, Form | Link]) -> dict[str, Question]:
    """Check the questions that a tool or a prompt declares with `ask=`.

    Args:
        what: The tool or the prompt, for errors.
        ask: The questions, by name.

    Raises:
        ConfigurationError: One is no `Form` or `Link`, or clients cannot render its schema.
    """
    for name, question in ask.items():
        if not isinstance(question, Form | Link):
            raise ConfigurationError(f"{what}: ask={name!r}: expected a Form or a Link, not {question!r}")
        try:
            question.recorded()
        except ConfigurationError as error:
            raise ConfigurationError(f"{what}: ask={name!r}: {error}") from None
    return dict(ask)


def default_text(name: str, question: Question, value: Any) -> JsonText:
    """The JSON text of the answer that a question gets if none comes in time.

    Args:
        name: The question's name, for the error.
        question: The question.
        value: The default as the tool reads it: values or a model, `Declined`, `Cancelled`.

    Raises:
        ConfigurationError: The default would be refused as an answer.
    """
    try:
        answer = _refusal(value) or question.write(value)
        return check_answer(name, question.recorded(), answer)
    except (AnswerRefused, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"The default of question {name!r} cannot be its answer: {error}") from error


def question_digest(recorded: RecordedQuestion) -> str:
    """A digest of what must not change of a question; an earlier answer fits if it is equal."""
    return blake2b(compared_of(recorded).encode(), digest_size=8).hexdigest()


def compared_of(recorded: RecordedQuestion) -> str:
    """What must not change of a question, as JSON text: its kind, and its schema without wording."""
    schema = recorded.answer_schema if isinstance(recorded, FormQuestion) else {}
    return json.dumps([recorded.kind, without_wording(schema)], sort_keys=True)


def check_answer(key: str, question: RecordedQuestion, answer: Any) -> JsonText:
    """Check a client's answer against its question, and return it as it is recorded.

    Args:
        key: The question's key, for the error.
        question: The question, as it was recorded.
        answer: The answer, as parsed JSON.

    Raises:
        AnswerRefused: It does not fit; the message names key and path.
    """
    if not isinstance(answer, Mapping):
        raise AnswerRefused(key, "", "expected an object")
    if "error" in answer:
        _check_model(key, _ErrorAnswer, answer)
        return _recordable(answer)
    match question:
        case FormQuestion() | LinkQuestion():
            _check_action(key, question, answer)
        case SamplingQuestion():
            _check_model(key, SentReply, answer)
        case RootsQuestion():
            _check_model(key, SentRoots, answer)
    return _recordable(answer)


def _said(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, dict) and content["type"] in ("resource", "resource_link"):
        raise TypeError("a message to the client's model is a text, an image or audio, not a resource")
    return message


def _recordable(answer: Mapping[str, Any]) -> JsonText:
    return to_json("answer", dict(answer), maximum=DEFAULT_LIMITS.answers_bytes)


def _check_action(key: str, question: FormQuestion | LinkQuestion, answer: Mapping[str, Any]) -> None:
    action = answer.get("action")
    if action not in ("accept", "decline", "cancel"):
        raise AnswerRefused(key, "action", "expected accept, decline or cancel")
    if action != "accept" or isinstance(question, LinkQuestion):
        return
    content = answer.get("content")
    if not isinstance(content, Mapping):
        raise AnswerRefused(key, "content", "expected an object")
    if (problem := problem_of(question.answer_schema, content)) is not None:
        path, sentence = problem
        raise AnswerRefused(key, f"content.{path}" if path else "content", sentence)


def _check_model(key: str, model: type[BaseModel], answer: Mapping[str, Any]) -> None:
    try:
        model.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise AnswerRefused(key, ".".join(map(str, first["loc"])), first["msg"]) from error


def _not_accepted(answer: Any) -> Declined | Cancelled | None:
    action = _no_error(answer).get("action")
    if action == "decline":
        return Declined()
    return Cancelled() if action == "cancel" else None


def _no_error(answer: Any) -> Any:
    if "error" in answer:
        error = _ErrorAnswer.model_validate(answer).error
        raise ClientError(error.code, error.message)
    return answer


def _refusal(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Declined):
        return {"action": "decline"}
    return {"action": "cancel"} if isinstance(value, Cancelled) else None
