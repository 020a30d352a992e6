"""The most that a client may write into each field of a message, in bytes of UTF-8.

Whatever a client names itself is stored, repeated on streams or logged: so each such field has a maximum,
for every revision and transport. `tests/security/test_field_limits.py` fails for a field of text without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)

from ...authoring.resource import URI_BYTES
from ...domain.limits import KIB, MIB
from ...extension import IDEMPOTENCY_META
from ..transport.http_headers import LAST_EVENT_HEADER, SESSION_HEADER
from ..transport.message_limits import ANY, ITEMS, TEXT_BYTES, Fields, Region
from .wire_common import TOOLS_CALL

WORD: Final = 256
"""Names, versions, ids, tokens and words of a vocabulary. The longest of our own ids has 40 bytes."""

SENTENCE: Final = 2 * KIB
"""Texts for people."""

ICON: Final = 64 * KIB
"""An icon, which may be the image itself as a `data:` URI."""

CURSOR: Final = 1 * KIB
"""Our own, sealed."""

STATE: Final = 256 * KIB
"""Our own, sealed: it holds the answers of earlier rounds."""

QUESTION_ID: Final = 2 * KIB
"""The id of a request of ours, sealed, which a response repeats."""

_IMPLEMENTATION: Final[dict[str, Any]] = {
    "name": WORD,
    "version": WORD,
    "title": WORD,
    "description": SENTENCE,
    "websiteUrl": URI_BYTES,
    "icons": {ITEMS: {"src": ICON, "mimeType": WORD, "theme": WORD, "sizes": {ITEMS: WORD}}},
}

_META: Final[dict[str, Any]] = {
    "progressToken": WORD,
    PROTOCOL_VERSION_META_KEY: WORD,
    CLIENT_INFO_META_KEY: _IMPLEMENTATION,
    CLIENT_CAPABILITIES_META_KEY: {ANY: TEXT_BYTES},
    LOG_LEVEL_META_KEY: WORD,
    IDEMPOTENCY_META: WORD,
    "traceparent": WORD,
    "tracestate": KIB,
    "baggage": TEXT_BYTES,
    ANY: TEXT_BYTES,
}

_PARAMS: Final[dict[str, Any]] = {
    "_meta": _META,
    "name": WORD,
    "arguments": {ANY: MIB},
    "inputResponses": Region.ANSWERS,
    "requestState": STATE,
    "uri": URI_BYTES,
    "cursor": CURSOR,
    "taskId": WORD,
    "requestId": WORD,
    "reason": SENTENCE,
    "level": WORD,
    "protocolVersion": WORD,
    "clientInfo": _IMPLEMENTATION,
    "capabilities": {ANY: TEXT_BYTES},
    "task": {"ttl": WORD, ANY: WORD},
    "ref": {"type": WORD, "name": WORD, "title": WORD, "uri": URI_BYTES},
    "argument": {"name": WORD, "value": TEXT_BYTES},
    "context": {"arguments": {ANY: TEXT_BYTES}},
    "notifications": {"resourceSubscriptions": {ITEMS: URI_BYTES}, "taskIds": {ITEMS: WORD}},
    ANY: TEXT_BYTES,
}

REQUEST_FIELDS: Final[Fields] = {
    "jsonrpc": WORD,
    "id": WORD,
    "method": WORD,
    "params": _PARAMS,
    ANY: TEXT_BYTES,
}
"""The fields of requests and notifications."""

CALL_FIELDS: Final[Fields] = {**REQUEST_FIELDS, "params": {**_PARAMS, "arguments": Region.ARGUMENTS}}
"""The fields of a call of a tool, into whose arguments the SDK's models do not look."""

RESPONSE_FIELDS: Final[Fields] = {
    "jsonrpc": WORD,
    "id": QUESTION_ID,
    "result": Region.ANSWERS,
    "error": Region.ANSWERS,
    ANY: TEXT_BYTES,
}
"""The fields of responses."""


HEADERS: Final[Mapping[str, int]] = {
    "accept": KIB,
    "authorization": 9 * KIB,
    "content-encoding": WORD,
    "content-type": WORD,
    "host": KIB,
    "mcp-method": WORD,
    "mcp-protocol-version": WORD,
    LAST_EVENT_HEADER: 4 * KIB,
    SESSION_HEADER: WORD,
    "mcp-name": 12 * KIB,
}
"""The headers that a request is read by; a name may be written in base64, which makes it longer."""


def fields_of(message: Any) -> Fields:
    """What the fields of a message may hold, whatever it is."""
    if "method" not in message:
        return RESPONSE_FIELDS
    return CALL_FIELDS if message["method"] == TOOLS_CALL else REQUEST_FIELDS
