"""The results of a function: their JSON schema, and what clients get for the value that it returned.

What is structured and what is text are the same truth: the text is written from the structured value.
"""

from __future__ import annotations

import json
import math
import types
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import cached_property
from inspect import isasyncgen, iscoroutine
from typing import Annotated, Any, Final, Never, NoReturn, get_args, get_origin

import pydantic_core
from jsonschema.protocols import Validator
from pydantic import BaseModel, TypeAdapter, ValidationError

from ..domain.errors import NotJson
from ..durable.content import (
    ToolResult,
    as_tool_result,
    is_content,
    is_content_type,
    is_result_type,
    recorded_block,
)
from ..durable.json_schema import validator_of
from ..durable.sdk_objects import is_sdk_class
from .hints import NO_SCHEMA, first_line
from .json_schemas import result_schema
from .refusals import Place, Refusal
from .signature import MISSING, arms

_ONE_BY_ONE: Final = (Iterator, Iterable, Generator)
_ASYNC_ONE_BY_ONE: Final = (AsyncIterator, AsyncIterable, AsyncGenerator)
_BLOCKS_IN: Final = (list, tuple, Sequence, *_ONE_BY_ONE)

_ANYTHING: Final = TypeAdapter(Any)


@dataclass(frozen=True)
class Results:
    """What a function's values become.

    Attributes:
        schema: JSON schema of the structured result, an object; None: nothing is promised.
        wraps: Whether the structured result is an object only because a value of another type is wrapped.
    """

    schema: Mapping[str, Any] | None
    wraps: bool
    _adapter: TypeAdapter[Any] | None

    def record(self, value: Any) -> dict[str, Any]:
        """Convert what the function returned to a `CallToolResult` as it is recorded.

        Raises:
            NotJson: It does not match the hint, or cannot be serialised; the reason says where.
        """
        value = gathered(value)
        _refuse_forgotten(value)
        if (whole := as_tool_result(value)) is not None:
            return self._whole(whole)
        blocks = _blocks(value)
        if self._adapter is None:
            return {"content": blocks if blocks is not None else [_text(serialised(_ANYTHING, value))]}
        sent = self._sent(value) if blocks is None else _recorded(value)
        content = blocks if blocks is not None else [_text(sent)]
        return {"content": content, "structuredContent": {"result": sent} if self.wraps else sent}

    def read(self, recorded: Mapping[str, Any]) -> Any:
        """The value that a recorded result stands for, for a caller in Python.

        What is structured becomes a value of the hint's type. Without a hint it is the text; what holds more
        than one text is the list of blocks, as they are recorded.
        """
        if "structuredContent" not in recorded:
            return _plain(recorded["content"])
        sent = recorded["structuredContent"]
        if self.wraps and isinstance(sent, Mapping) and sent.keys() == {"result"}:
            sent = sent["result"]
        if self._adapter is None:
            return sent
        try:
            return self._adapter.validate_json(json.dumps(sent))
        except ValidationError:
            return sent  # recorded under an older hint

    def _whole(self, result: ToolResult) -> dict[str, Any]:
        try:
            recorded = result.recorded()
        except (TypeError, ValueError, pydantic_core.PydanticSerializationError) as error:
            raise NotJson("result", "it cannot be serialised") from error
        if self._adapter is not None and not result.is_error:
            recorded["structuredContent"] = self._sent(result.structured_content)
        elif result.structured_content is not None:
            recorded["structuredContent"] = serialised(_ANYTHING, result.structured_content)
        return recorded

    def _sent(self, value: Any) -> Any:
        """The JSON of a value of the hint's type."""
        adapter = self._adapter or _ANYTHING
        try:
            valid = adapter.validate_python(value)
        except ValidationError as error:
            if (sent := self._sent_by_names(value)) is not MISSING:
                return sent
            raise NotJson("result", _mismatch(error, value)) from None
        return serialised(adapter, valid)

    def _sent_by_names(self, value: Any) -> Any:
        """The JSON of values under Python's names, where a hint has aliases; `MISSING` if it does not fit."""
        if self._adapter is None or not isinstance(value, Mapping):
            return MISSING
        try:
            sent = serialised(self._adapter, value)
        except NotJson:
            return MISSING
        fits = self._validator is not None and self._validator.is_valid(
            {"result": sent} if self.wraps else sent
        )
        return sent if fits else MISSING

    @cached_property
    def _validator(self) -> Validator | None:
        return None if self.schema is None else validator_of(self.schema)


def build_results(place: Place, hint: Any) -> Results:
    """Make the schema and the writer of a function's results.

    Args:
        place: The function, for errors.
        hint: Its resolved return hint; `MISSING` if it has none.

    Raises:
        ConfigurationError: The hint cannot work.
    """
    hint = _returned(hint)
    if hint in (MISSING, Any, object, NoReturn, Never):
        return Results(None, False, None)
    for arm in arms(hint):
        if (get_origin(arm) or arm) in _ASYNC_ONE_BY_ONE:
            raise place.refuse(Refusal.RESULT_STREAM)
        if is_sdk_class(arm, "InputRequiredResult"):
            raise place.refuse(Refusal.RESULT_QUESTION)
    if any(map(is_result_type, arms(hint))):
        promised = [each for each in getattr(hint, "__metadata__", ()) if not isinstance(each, str)]
        if get_origin(hint) is not Annotated or not promised:
            return Results(None, False, None)
        hint = promised[0]
    elif _is_content(hint):
        return Results(None, False, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter: TypeAdapter[Any] = TypeAdapter(hint)
            schema = result_schema(adapter)
    except NO_SCHEMA as error:
        raise place.refuse(Refusal.RESULT_SCHEMA, problem=first_line(error)) from error
    if schema.get("type") == "object":
        return Results(schema, False, adapter)
    return Results(_wrapped(schema), True, adapter)


def gathered(value: Any) -> Any:
    """The items of an iterator as a list; other values as they are."""
    return list(value) if isinstance(value, Iterator) else value


def serialised(adapter: TypeAdapter[Any], value: Any) -> Any:
    """The JSON of a value, as an adapter writes it.

    Raises:
        NotJson: There is none: of an unknown type, NaN, bytes that are no UTF-8; the reason says where.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sent = adapter.dump_python(value, mode="json", by_alias=True, warnings="error")
    except (pydantic_core.PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise NotJson("result", f"it cannot be serialised{_unserialisable(value)}") from error
    if _has_null(sent):
        # Pydantic writes null for NaN where the hint is a float; only Python's values still show it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                values = adapter.dump_python(value, by_alias=True, warnings=False)
            except TypeError:  # a set of models, of which Python makes no set of dicts
                values = value
            _refuse_not_finite(sent, values)
    else:
        _refuse_not_finite(sent, sent)
    return sent


# --- hints --------------------------------------------------------------------------------------------


def _returned(hint: Any) -> Any:
    """The hint of what there is in the end: of a list for an iterator, of what an awaitable gives."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Coroutine, Awaitable):
        return _returned(arguments[-1]) if arguments else MISSING
    if origin in _ONE_BY_ONE:
        return list[arguments[0]] if arguments else list[Any]  # type: ignore[valid-type]
    return hint


def _is_content(hint: Any) -> bool:
    """Whether a hint says that blocks of content are returned, alone or in a list."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _is_content(get_args(hint)[0])
    if origin in _BLOCKS_IN or origin is types.UnionType or len(arms(hint)) > 1:
        return any(map(_is_content, get_args(hint)))
    return is_content_type(hint)


def _wrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object whose property `result` is of a schema."""
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    inner.setdefault("title", "Result")
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {**definitions, "type": "object", "properties": {"result": inner}, "required": ["result"]}


# --- values -------------------------------------------------------------------------------------------


def _refuse_forgotten(value: Any) -> None:
    if iscoroutine(value):
        value.close()
        raise NotJson("result", "got a coroutine: await it")
    if isasyncgen(value):
        raise NotJson("result", "got an async generator: collect its items in a list")
    if is_sdk_class(type(value), "InputRequiredResult"):
        raise NotJson("result", "a tool asks through its context, it does not return a question")


def _mismatch(error: ValidationError, value: Any) -> str:
    if value is None:
        return "got None: does every way through the function end with a return?"
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(map(str, problem["loc"]))
    return f"it does not match the output schema: {path + ': ' if path else ''}{problem['msg']}"


def blocks_text(blocks: Sequence[Mapping[str, Any]]) -> str:
    """The text of recorded blocks, line by line; other blocks are left out."""
    return "\n".join(block["text"] for block in blocks if block.get("type") == "text")


def _plain(blocks: Sequence[Mapping[str, Any]]) -> Any:
    """The text of a block that is one and alone; otherwise the blocks."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0].get("type") == "text" else list(blocks)


def _blocks(value: Any) -> list[dict[str, Any]] | None:
    """The content of a value that is a block, or a list with blocks in it; None if there are none."""
    if is_content(value):
        return [_block(value)]
    if isinstance(value, list | tuple) and any(map(is_content, value)):
        return [_block(item) for item in value]
    return None


def _block(item: Any) -> dict[str, Any]:
    try:
        return recorded_block(item) if is_content(item) else _text(serialised(_ANYTHING, item))
    except (TypeError, ValueError, pydantic_core.PydanticSerializationError) as error:
        raise NotJson("result", "it cannot be serialised") from error


def _recorded(value: Any) -> Any:
    """Blocks as structured content, where the hint promises some: it is too wide to say that they come."""
    items = value if isinstance(value, list | tuple) else [value]
    made = [recorded_block(each) if is_content(each) else serialised(_ANYTHING, each) for each in items]
    return made if isinstance(value, list | tuple) else made[0]


def _text(sent: Any) -> dict[str, Any]:
    text = sent if isinstance(sent, str) else json.dumps(sent, ensure_ascii=False, separators=(",", ":"))
    return {"type": "text", "text": text}


def _unserialisable(value: Any) -> str:
    """Why, as far as it may be said: names of types, never values."""
    if isinstance(value, bytes | bytearray):
        return ": bytes that are no UTF-8; return an Image, Audio or EmbeddedResource, or base64"
    known = (str, int, float, bool, list, tuple, dict, set, frozenset, type(None))
    return "" if isinstance(value, known) else f": {type(value).__name__}"


def _has_null(sent: Any) -> bool:
    waiting = [sent]
    while waiting:
        found = waiting.pop()
        if found is None:
            return True
        if isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return False


def _refuse_not_finite(sent: Any, value: Any) -> None:
    """Refuse NaN and infinities, which JSON does not have, at whatever depth; it names the place."""
    waiting: list[tuple[str, Any, Any]] = [("", sent, value)]
    while waiting:
        path, written, original = waiting.pop()
        if isinstance(original, BaseModel):
            original = dict(original)
        if isinstance(original, float) and not math.isfinite(original) and not isinstance(written, str):
            raise NotJson("result", f"{path or 'it'} is {original}, which is not a JSON number")
        if isinstance(written, dict) and isinstance(original, Mapping) and len(written) == len(original):
            for (name, inner), source in zip(written.items(), original.values(), strict=True):
                waiting.append((f"{path}.{name}".lstrip("."), inner, source))
        elif isinstance(written, list) and isinstance(original, list | tuple | set | frozenset):
            for index, (inner, source) in enumerate(zip(written, original, strict=False)):
                waiting.append((f"{path}.{index}".lstrip("."), inner, source))
