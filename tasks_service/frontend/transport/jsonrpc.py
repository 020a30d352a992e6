"""JSON-RPC 2.0 messages: parsed once from decoded values into types, and the ones that are made here."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pydantic_core
from mcp_types import PROTOCOL_VERSION_META_KEY, ErrorData
from mcp_types.jsonrpc import INVALID_REQUEST

from .rejection import Rejection


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        id: Repeated in the answer.
        method: What is to be done.
        params: Of the method; None if the message has none.
    """

    id: str | int
    method: str
    params: Mapping[str, Any] | None

    @property
    def body(self) -> dict[str, Any]:
        """The message itself, for the SDK's checks."""
        return {"jsonrpc": "2.0", "id": self.id, "method": self.method, "params": self.params}


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification.

    Attributes:
        method: What has happened.
        params: Of the method; None if the message has none.
    """

    method: str
    params: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Response:
    """A response to a request of ours.

    Attributes:
        id: The id of that request, as the client sent it back.
        answer: The result; an error as `{"error": ...}`.
    """

    id: Any
    answer: Any


Message = Request | Notification | Response

MOST_IN_BATCH: Final = 64
"""Messages of one batch."""

_LINE_ENDS: Final = {
    "\u0085".encode(): rb"\u0085",
    "\u2028".encode(): rb"\u2028",
    "\u2029".encode(): rb"\u2029",
}
"""Characters that JSON allows in text, and that some readers of event streams take for the end of a line."""


class EncodedList(list[dict[str, Any]]):
    """A list that is sent often and seldom changes, with its JSON text.

    Args:
        items: What is in it.
        text: The JSON text of that, on one line.

    Attributes:
        text: See the argument.
    """

    def __init__(self, items: Iterable[dict[str, Any]], text: bytes) -> None:
        super().__init__(items)
        self.text = text


_PLACE: Final = secrets.token_hex(16)
"""Holds the place of an encoded list; no client can know it."""

_PLACE_TEXT: Final = pydantic_core.to_json(_PLACE)


def encode(message: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> bytes:
    """A message, or a batch of them, as JSON on one line, whatever a reader takes for the end of one.

    A list in its result that is encoded already is not encoded again.
    """
    if isinstance(message, Mapping) and isinstance(result := message.get("result"), Mapping):
        for name, value in result.items():
            if type(value) is EncodedList:
                frame = encode({**message, "result": {**result, name: _PLACE}})
                before, after = frame.split(_PLACE_TEXT)
                return before + value.text + after
    return _on_one_line(pydantic_core.to_json(message))


def _on_one_line(text: bytes) -> bytes:
    if not text.isascii():
        for character, escaped in _LINE_ENDS.items():
            text = text.replace(character, escaped)
    return text


def parse_message(decoded: Any) -> Message:
    """Parse a decoded JSON value as a single JSON-RPC message; see `parse_batch`.

    Raises:
        Rejection: 400; it is no message, or its params are no object.
    """
    match decoded:
        case {"jsonrpc": "2.0", "id": str() | int() as id_, "method": str() as method} if not isinstance(
            id_, bool
        ):
            return Request(id_, method, _params(decoded))
        case {"jsonrpc": "2.0", "method": str() as method} if "id" not in decoded:
            return Notification(method, _params(decoded))
        case {"jsonrpc": "2.0", "id": id_, "error": error}:
            return Response(id_, {"error": error})
        case {"jsonrpc": "2.0", "id": id_, "result": result}:
            return Response(id_, result)
    raise Rejection(400, INVALID_REQUEST, _problem(decoded), request_id=request_id(decoded))


def parse_batch(decoded: list[Any]) -> list[Message]:
    """Parse a decoded JSON array as a batch, which one revision has.

    Raises:
        Rejection: 400; it is empty or too long, or something in it is no message.
    """
    if not 0 < len(decoded) <= MOST_IN_BATCH:
        problem = f"A batch of {len(decoded)} messages: expected 1 to {MOST_IN_BATCH}"
        raise Rejection(400, INVALID_REQUEST, problem)
    return [parse_message(each) for each in decoded]


def _problem(decoded: Any) -> str:
    """What makes a value no message."""
    if isinstance(decoded, list):
        return "A batch: expected one JSON-RPC message for each request"
    if not isinstance(decoded, Mapping):
        return "Expected a JSON-RPC 2.0 request, notification or response, which is an object"
    if decoded.get("jsonrpc") != "2.0":
        return 'jsonrpc: expected "2.0"'
    if "method" not in decoded:
        return "Expected a method, as requests and notifications have, or an id and a result or error"
    if not isinstance(decoded["method"], str):
        return "method: expected text"
    return "id: expected text or an integer; a notification has none"


def request_id(decoded: Any) -> str | int | None:
    """The id of a decoded request; None if there is none that an answer could carry."""
    value = decoded.get("id") if isinstance(decoded, Mapping) else None
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def has_envelope(message: Message) -> bool:
    """Whether a message names its revision itself, as those without a handshake do."""
    params = None if isinstance(message, Response) else message.params
    meta = None if params is None else params.get("_meta")
    return isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta


def result_message(id_: str | int, result: Mapping[str, Any]) -> dict[str, Any]:
    """A response with a result."""
    return {"jsonrpc": "2.0", "id": id_, "result": result}


def error_message(id_: str | int | None, error: ErrorData) -> dict[str, Any]:
    """A response with an error."""
    fields: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        fields["data"] = error.data
    return {"jsonrpc": "2.0", "id": id_, "error": fields}


def rejection_message(rejection: Rejection) -> dict[str, Any]:
    """The response to a message that was rejected."""
    error = ErrorData(code=rejection.code, message=rejection.message, data=rejection.data)
    return error_message(rejection.request_id, error)


def _params(decoded: Mapping[str, Any]) -> Mapping[str, Any] | None:
    params = decoded.get("params")
    if params is None or isinstance(params, Mapping):
        return params
    raise Rejection(400, INVALID_REQUEST, "params: expected an object", request_id=request_id(decoded))
