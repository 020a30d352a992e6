"""What a message must look like that a worker is given: parsed here before kombu and Celery see it.

Whoever can write to the broker can write anything, and most shapes that are no message end a Celery worker,
one worker after the other. A message of a task of ours is judged as a whole, since only our own code makes
such messages (see `message`), and must bear the signature of a process of ours (see `signature`). So must,
in a queue that nobody else uses, one of a task that is not known here: it may be of a tool that only other
workers have. Of a message of another Celery task only so much is judged as kombu needs to make an object of
it, and that it is JSON; Celery's own tasks are refused there. In a queue that others use too, what is not
ours is none of our business.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from kombu.utils.json import loads

from .signature import ANYWHERE, SIGNATURE, MessageSigner

LONGEST_NAME = 255
"""Characters of an id or a reference, at most; real ones have 30."""

LATEST_MS = 2**53
"""No time that a message may name is later: the largest number that every JSON reader keeps as it is."""

_ENCODINGS = (None, "base64", "utf-8")
"""The encodings of bodies that kombu knows."""


class Sender(Enum):
    """Whose task a message names."""

    TOOL = "tool"
    """A tool: what `message.send_message` makes."""
    BEAT = "beat"
    """What beat asks for."""
    OTHER = "other"
    """A Celery task that the app has, and that is not ours."""
    BUILT_IN = "built-in"
    """A task that Celery gives every app, to run others by."""
    UNKNOWN = "unknown"
    """A task that the app does not have, or none at all."""


_OURS = (Sender.TOOL, Sender.BEAT)

_UNREAD: Final = object()


class _Envelope(NamedTuple):
    """A message without what only its transport knows.

    Attributes:
        headers: The headers.
        content_type: Of the body.
        content_encoding: Of the body.
        body: The arguments, not yet read; with protocol 1, all that the message says.
    """

    headers: Mapping[str, Any]
    content_type: Any
    content_encoding: Any
    body: Any


class Content(NamedTuple):
    """What a message says.

    Attributes:
        headers: The headers; with protocol 1, the fields of the body.
        body: The arguments, as the message has them; `_UNREAD`: compressed, or not JSON, and left to Celery.
    """

    headers: Mapping[str, Any]
    body: Any


class _Malformed(Exception):
    """Says what is wrong."""


def problem_of(
    raw: bytes,
    sender_of: Callable[[str], Sender],
    *,
    alone: bool,
    queue: str = "",
    signer: MessageSigner | None = None,
) -> str | None:
    """What is wrong with something that a queue in Redis holds; None if a worker may have it.

    Args:
        raw: What the queue holds.
        sender_of: Says whose task a name is.
        alone: Whether nobody else uses the queue.
        queue: The queue's name.
        signer: Verifies signatures; None: none is asked for.
    """
    try:
        message = _parsed(raw, "it")
    except _Malformed as problem:
        is_ours = alone or sender_of(_task_of(_read_plainly(raw))) in _OURS
        return str(problem) if is_ours else None
    sender = sender_of(_task_of(message))
    if not alone and sender not in _OURS:
        return None
    try:
        _judge(_envelope(message), sender, queue, signer)
    except _Malformed as problem:
        return str(problem)
    return None


def problem_of_message(
    message: Any,
    sender_of: Callable[[str], Sender],
    *,
    alone: bool,
    queue: str = "",
    signer: MessageSigner | None = None,
) -> str | None:
    """What is wrong with a message, as kombu has made it from any broker; None if a worker may have it.

    Args:
        message: A `kombu.Message`, not yet decoded.
        sender_of: As for `problem_of`; so are the others.
        alone: See there.
        queue: See there.
        signer: See there.
    """
    headers = message.headers if isinstance(message.headers, dict) else {}
    envelope = _Envelope(headers, message.content_type, message.content_encoding, message.body)
    name = headers.get("task")
    if name is None and envelope.content_type == "application/json":
        name = _task_of_body(envelope.body)
    sender = sender_of(name if isinstance(name, str) else "")
    if not alone and sender not in _OURS:
        return None
    try:
        _judge(envelope, sender, queue, signer)
    except _Malformed as problem:
        return str(problem)
    return None


def _judge(envelope: _Envelope, sender: Sender, queue: str, signer: MessageSigner | None) -> None:
    """Judge a message of ours, or one in a queue that nobody else uses.

    Raises:
        _Malformed: A worker may not have it.
    """
    content = _content(envelope)
    _need(sender is not Sender.BUILT_IN, "it names a task of Celery's own, and nothing here sends those")
    # Also of other tasks: an app of a shop's may take messages that run code when they are read.
    _need(envelope.content_type == "application/json", "its body is not JSON")
    if sender is Sender.OTHER:
        return
    _need(str(envelope.content_encoding).lower() == "utf-8", "its body is not in UTF-8")
    _need(envelope.headers.get("compression") is None, "it is compressed, as none of ours is")
    kwargs = _check(content, sender)
    if signer is not None:
        where = ANYWHERE if sender is Sender.BEAT else queue
        problem = signer.problem(envelope.headers.get(SIGNATURE), where, content.headers, kwargs)
        _need(problem is None, str(problem))


def _parsed(raw: Any, what: str) -> Any:
    try:
        # kombu's own, since it will read it in the same way: some objects make it raise.
        return loads(raw)
    except Exception as error:
        raise _Malformed(f"{what} is not JSON ({type(error).__name__})") from None


def _read_plainly(raw: bytes) -> Any:
    """What is no message for kombu, if it is JSON at all."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _task_of(message: Any) -> str:
    """The name of the task that a message names, wherever it names it; empty if nowhere."""
    if not isinstance(message, dict):
        return ""
    headers = message.get("headers")
    name = headers.get("task") if isinstance(headers, dict) else None
    if name is None and message.get("content-type") == "application/json":
        try:
            name = _task_of_body(_decoded(message))
        except _Malformed:
            return ""
    return name if isinstance(name, str) else ""


def _task_of_body(body: Any) -> Any:
    """What protocol 1 has for the name of a task."""
    try:
        fields = _parsed(body, "its body")
    except _Malformed:
        return None
    return fields.get("task") if isinstance(fields, dict) else None


def _envelope(message: Any) -> _Envelope:
    """A message of which kombu can make an object."""
    _need(isinstance(message, dict), "it is no object")
    headers, properties = message.get("headers"), message.get("properties")
    _need(isinstance(properties, dict), "it has no properties")
    _need(headers is None or isinstance(headers, dict), "its headers are no object")
    where = properties.get("delivery_info")
    _need(_is_text(properties.get("delivery_tag")), "it has no delivery tag")
    _need(
        isinstance(where, dict)
        and _is_text(where.get("exchange"), "")
        and _is_text(where.get("routing_key"), ""),
        "it does not say where it was sent to",
    )
    _need(all(_is_text(properties.get(name), None, "") for name in _TEXTS), "a property of it is no text")
    content_type, content_encoding = message.get("content-type"), message.get("content-encoding")
    _need(_is_text(content_type), "it does not say of what type its body is")
    _need(_is_text(content_encoding), "it does not say how its body is encoded")
    return _Envelope(headers or {}, content_type, content_encoding, _decoded(message))


def _content(envelope: _Envelope) -> Content:
    """The content of a message of which Celery can make a request."""
    headers = envelope.headers
    compression = headers.get("compression")
    _need(compression is None or _is_text(compression), "the name of its compression is no text")
    is_json = envelope.content_type == "application/json" and compression is None
    if "task" in headers:
        _need(_is_text(headers["task"]) and _is_text(headers.get("id")), "its task or its id is no text")
        return Content(headers, _parsed(envelope.body, "its body") if is_json else _UNREAD)
    _need(is_json, "it names no task")
    fields = _parsed(envelope.body, "its body")
    _need(isinstance(fields, dict) and _is_text(fields.get("task")), "it names no task")
    _need(_is_text(fields.get("id")), "it has no id")
    return Content(fields, [fields.get("args"), fields.get("kwargs"), fields])


_TEXTS = ("correlation_id", "reply_to", "expiration", "message_id", "type", "user_id", "app_id")


def _decoded(message: Mapping[str, Any]) -> bytes:
    body, properties = message.get("body"), message.get("properties")
    encoding = properties.get("body_encoding") if isinstance(properties, dict) else None
    _need(isinstance(body, str) and body != "", "it has no body")
    encoding = encoding.lower() if isinstance(encoding, str) else encoding
    _need(encoding in _ENCODINGS, "the encoding of its body is unknown")
    try:
        text = str(body).encode()
        return base64.b64decode(text) if encoding == "base64" else text
    except ValueError:
        raise _Malformed("its body cannot be decoded") from None


def _check(content: Content, sender: Sender) -> Mapping[str, Any]:
    """Judge a message of ours, in its headers and in its arguments, which are returned."""
    for name, fits in HEADERS.items():
        _need(fits(content.headers.get(name)), f"its header {name!r} is none that a task of ours has")
    expires = content.headers.get("expires")
    _need(
        expires is None or (sender is Sender.BEAT and _is_text(expires)), "it expires, as none of ours does"
    )
    _need(isinstance(content.body, list) and len(content.body) == 3, "its body is not what Celery sends")
    args, kwargs, embedded = content.body
    _need(args == [], "it has arguments in order")
    _need(isinstance(kwargs, dict), "its arguments have no names")
    _need(isinstance(embedded, dict), "its body is not what Celery sends")
    _need(not any(embedded.get(name) for name in _FOLLOWERS), "it wants other tasks to be called")
    if sender is not Sender.BEAT:
        _need(_is_reference(kwargs), "it holds no task's reference")
    return kwargs  # type: ignore[no-any-return]


_FOLLOWERS = ("callbacks", "errbacks", "chain", "chord")
"""What a message may name to be called afterwards; nothing of ours has a successor."""


def _is_none(value: Any) -> bool:
    return value is None


def _is_name(value: Any) -> bool:
    return _is_text(value) and len(value) <= LONGEST_NAME


def _is_text_or_none(value: Any) -> bool:
    return _is_text(value, None, "")


def _is_count(value: Any) -> bool:
    return value is None or _is_time(value)


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_no_limit(value: Any) -> bool:
    return value is None or value == [None, None]


def _is_empty(value: Any) -> bool:
    return not value


HEADERS: Mapping[str, Callable[[Any], bool]] = {
    "task": _is_name,
    "id": _is_name,
    "root_id": _is_text_or_none,
    "parent_id": _is_text_or_none,
    "argsrepr": _is_text_or_none,
    "kwargsrepr": _is_text_or_none,
    "origin": _is_text_or_none,
    "lang": _is_text_or_none,
    "meth": _is_none,
    "shadow": _is_none,
    "eta": _is_none,
    "group": _is_none,
    "group_index": _is_none,
    "retries": _is_count,
    "replaced_task_nesting": _is_count,
    "timelimit": _is_no_limit,
    "ignore_result": _is_flag,
    "stamped_headers": _is_empty,
    "stamps": _is_empty,
}
"""What Celery reads of the headers of a task of ours; what else is there was added by an instrumentation."""


def _is_reference(kwargs: Mapping[str, Any]) -> bool:
    return _is_name(kwargs.get("task")) and _is_time(kwargs.get("dispatched_ms"))


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LATEST_MS


def _is_text(value: Any, *besides: str | None) -> bool:
    """Whether this is a text that can be written, and not empty; or one of those besides."""
    if value in besides:
        return True
    try:
        return isinstance(value, str) and value.encode() != b""
    except UnicodeEncodeError:
        return False


def _need(holds: bool, problem: str) -> None:
    if not holds:
        raise _Malformed(problem)
