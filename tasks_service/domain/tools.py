"""Tools as data: everything that a front end must know of a tool to offer it, without its code.

A `ToolDefinition` travels between processes, and between releases, as a JSON document. What a front end
offers is an `OfferedTool`: a definition, and a check of the arguments of a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from .errors import UnknownTool
from .limits import DEFAULT_LIMITS, Limits
from .questions import RecordedQuestion, question_document, read_question
from .scopes import CALL, SERVICE_SCOPES, is_scope
from .task import JsonText, Policy

DEFAULT_QUEUE = "tasks"
"""The queue of tools that name none."""

COMPANION_TOOLS = ("task_status", "task_result", "task_answer", "task_cancel")
"""Names that are reserved for tools of the front end itself, unless the setting `companion_tools` is off."""

_DIGEST_BYTES = 16


class TaskSupport(StrEnum):
    """Whether a call of the tool may, must or must not become a task that the client sees.

    The values are those of the specification's `execution.taskSupport`.
    """

    FORBIDDEN = "forbidden"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """What a front end, and an operator, must know of a tool: plain data.

    Attributes:
        name: The name by which clients call it; also the name of its Celery task.
        input_schema: JSON schema of the arguments.
        reads_texts: Whether an argument that cannot be a text may be sent as the text of its JSON, as some
            hosts do.
        title: For people; shown by clients in place of the name.
        description: A text for the model that chooses among tools.
        output_schema: JSON schema of the structured result, an object; None if the result is unstructured.
        wraps_output: Whether the structured result is an object with one property, `result`, only because
            older revisions of the protocol know no other structured results.
        annotations: Hints for clients, by the protocol's names, as in `{"readOnlyHint": True}`.
        support: Whether a call becomes a task.
        policy: Lifetimes and attempts, recorded with each task.
        queue: The Celery queue that its messages go to.
        grace_ms: How long an `optional` call waits for its result before it is answered with a task; 0: not
            at all.
        handle_after_ms: How long a call without a task of an `optional` tool waits before it is answered with
            a text that names the task; 0: as the front end's setting says.
        ask: Questions that are asked before the task exists, by name, in this order.
        has_headers: Whether arguments are repeated in headers.
        release_client: Whether a client that waits for a plain result may be released while the tool sleeps.
        scopes: What a caller's token must allow beside calls of tools. Of a tool of the front end itself,
            what it must allow instead.
    """

    name: str
    input_schema: Mapping[str, Any]
    reads_texts: bool = False
    title: str | None = None
    description: str = ""
    output_schema: Mapping[str, Any] | None = None
    wraps_output: bool = False
    annotations: Mapping[str, Any] | None = None
    support: TaskSupport = TaskSupport.OPTIONAL
    policy: Policy = field(default_factory=Policy)
    queue: str = DEFAULT_QUEUE
    grace_ms: int = 0
    handle_after_ms: int = 0
    ask: Mapping[str, RecordedQuestion] = field(default_factory=dict)
    has_headers: bool = False
    release_client: bool = False
    scopes: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The definition as JSON; `from_document` makes an equal one of it.

        What is absent (None, empty, false) is left out; numbers and names are written even where they are the
        default, because another release may have another one.
        """
        named = {
            known.name: value for known in fields(self) if (value := getattr(self, known.name)) is not None
        }
        named["support"] = self.support.value
        named["policy"] = _policy_document(self.policy)
        # An array of pairs: the questions are asked in this order, and JSON objects have none.
        named["scopes"] = list(self.scopes)
        named["ask"] = [[name, question_document(asked)] for name, asked in self.ask.items()]
        return {name: value for name, value in named.items() if value or name in _ALWAYS}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ToolDefinition:
        """The definition of a document, which another release may have written.

        Names that this release does not know are ignored; missing ones get their defaults.

        Raises:
            ValueError: It is no definition: it has no name or schema, or a value has another type than here.
        """
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in document.items() if name in known and value is not None}
        try:
            for name, expected in _TYPES.items():
                _check(name, values.get(name), expected, required=name in ("name", "input_schema"))
            values["policy"] = _read_policy(values.get("policy") or {})
            values["ask"] = {name: read_question(asked) for name, asked in values.get("ask") or ()}
            values["scopes"] = _read_scopes(values.get("scopes") or ())
            if "support" in values:
                values["support"] = TaskSupport(values["support"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"This is no definition of a tool: {error}") from error
        return cls(**values)

    @property
    def scopes_of_calls(self) -> tuple[str, ...]:
        """All that a caller's token must allow."""
        return self.scopes if set(self.scopes) & set(SERVICE_SCOPES) else (CALL, *self.scopes)

    @property
    def digest(self) -> str:
        """A hash of the document: equal if, and but for chance only if, the definitions are equal."""
        text = json.dumps(self.to_document(), sort_keys=True, separators=(",", ":"))
        return blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


class OfferedTool(Protocol):
    """A tool, as a front end offers it."""

    @property
    def definition(self) -> ToolDefinition:
        """What clients and the front end must know of it."""

    def check_arguments(self, arguments: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> JsonText:
        """Check the arguments of a call, and return their JSON text as it is recorded.

        Raises:
            NotJson: NaN, an infinity or a lone surrogate.
            LimitExceeded: Too large or too deep.
            InvalidArguments: They do not match the schema; it names each field.
        """


T_co = TypeVar("T_co", bound=OfferedTool, covariant=True)


class ToolSet(Mapping[str, T_co]):
    """Tools by name, in the order of their names."""

    def find(self, name: str) -> T_co:
        """The tool of that name.

        Raises:
            UnknownTool: There is none.
        """
        try:
            return self[name]
        except KeyError:
            raise UnknownTool(name) from None


class Tools(ToolSet[T_co]):
    """A set of tools that does not change.

    Args:
        tools: The tools; names differ.
    """

    def __init__(self, *tools: T_co) -> None:
        self._tools = {tool.definition.name: tool for tool in tools}
        self._tools = dict(sorted(self._tools.items()))

    def __getitem__(self, name: str) -> T_co:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "input_schema": Mapping,
    "title": str,
    "description": str,
    "output_schema": Mapping,
    "wraps_output": bool,
    "annotations": Mapping,
    "support": str,
    "policy": Mapping,
    "queue": str,
    "grace_ms": int,
    "handle_after_ms": int,
    "ask": list,
    "has_headers": bool,
    "reads_texts": bool,
    "release_client": bool,
    "scopes": list,
}


def _check(name: str, value: Any, expected: type | tuple[type, ...], *, required: bool) -> None:
    if value is None and not required:
        return
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise TypeError(f"{name} cannot be {type(value).__name__}")


def _read_scopes(scopes: Iterable[Any]) -> tuple[str, ...]:
    found = tuple(scopes)
    if not all(map(is_scope, found)) or set(found) & set(SERVICE_SCOPES):
        raise ValueError(f"scopes cannot be {found!r:.80}")
    return found


def _policy_document(policy: Policy) -> dict[str, int]:
    return {name: getattr(policy, name) for name in _POLICY}


def _read_policy(document: Mapping[str, Any]) -> Policy:
    for name in _POLICY:
        _check(f"policy.{name}", document.get(name), int, required=False)
    return Policy(**{name: document[name] for name in _POLICY if document.get(name) is not None})


_ALWAYS = frozenset({"name", "input_schema", "output_schema", "policy", "queue", "support", "grace_ms"})
"""What a document says even where it is empty; an empty output schema is not the same as none."""

_POLICY = tuple(known.name for known in fields(Policy) if known.name != "unknown")
