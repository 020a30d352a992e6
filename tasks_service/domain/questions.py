"""Questions as they are recorded: in the service's own words, which wire modules translate.

The record keeps a question as JSON (`InputRequest.request`): its `kind`, and its attributes by name, without
those that have their default. No rule reads it, so it is decoded only where somebody is asked, or answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from .limits import DEFAULT_LIMITS, to_json
from .task import ClientCapability, JsonText, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class FormQuestion:
    """Some values, asked of a person.

    Attributes:
        message: What the person reads.
        schema: What MCP clients can render of the schema.
        check: The whole schema, where it says more than that; see `answer_schema`.
        model_may_answer: Whether a model may answer in the person's place, where its client knows no tasks.
    """

    kind: ClassVar = ClientCapability.FORM
    message: str
    schema: Mapping[str, Any]
    check: Mapping[str, Any] | None = None
    model_may_answer: bool = False

    @property
    def answer_schema(self) -> Mapping[str, Any]:
        """What an answer must fit."""
        return self.schema if self.check is None else self.check


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuestion:
    """A page that a person is asked to visit."""

    kind: ClassVar = ClientCapability.URL
    message: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingQuestion:
    """A completion, asked of the client's model.

    Attributes:
        messages: As MCP has them, in every revision.
        max_tokens: Longest completion.
        system_prompt: None leaves that to the client.
    """

    kind: ClassVar = ClientCapability.SAMPLING
    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    system_prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RootsQuestion:
    """The client's roots."""

    kind: ClassVar = ClientCapability.ROOTS


RecordedQuestion = FormQuestion | LinkQuestion | SamplingQuestion | RootsQuestion

_CLASSES: Mapping[str, tuple[type[RecordedQuestion], frozenset[str]]] = {
    known.kind: (known, frozenset(field.name for field in fields(known)))
    for known in (FormQuestion, LinkQuestion, SamplingQuestion, RootsQuestion)
}


def question_document(question: RecordedQuestion) -> dict[str, Any]:
    """A question as JSON: its `kind`, and its attributes by name, without those that have their default."""
    values = ((field, getattr(question, field.name)) for field in fields(question))
    told = {field.name: value for field, value in values if value != field.default}
    return {"kind": question.kind.value, **told}


def read_question(document: Mapping[str, Any]) -> RecordedQuestion:
    """The question of a document; attributes that this version does not know are passed over.

    Raises:
        KeyError, TypeError: It is none that this version knows.
    """
    known, names = _CLASSES[document["kind"]]
    return known(**{name: value for name, value in document.items() if name in names})


def encode(question: RecordedQuestion) -> JsonText:
    """A question as the JSON text that the record keeps.

    Raises:
        LimitExceeded, NotJson: It cannot be recorded.
    """
    return to_json("question", question_document(question), maximum=DEFAULT_LIMITS.variables_bytes)


def parse(text: str) -> RecordedQuestion:
    """A question out of the record; see `read_question`."""
    return read_question(json.loads(text))


def open_questions(task: Task) -> dict[str, RecordedQuestion]:
    """What a task asks now, by key."""
    return {key: parse(asked.request) for key, asked in task.inputs.items()}


def headline(question: RecordedQuestion) -> str:
    """What a question says, in one line."""
    message = question.message if isinstance(question, FormQuestion | LinkQuestion) else ""
    return message or "The tool asks its client."
