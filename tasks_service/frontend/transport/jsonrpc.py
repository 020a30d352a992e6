"""JSON-RPC messages: what they are, and the ones that are made here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_types import PROTOCOL_VERSION_META_KEY, ErrorData


def request_id(decoded: Any) -> str | int | None:
    """The id of a JSON-RPC request, None where there is none that an answer could carry."""
    value = decoded.get("id") if isinstance(decoded, dict) else None
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def has_envelope(decoded: Any) -> bool:
    """Whether a message names its revision itself, as those without a handshake do."""
    params = decoded.get("params") if isinstance(decoded, Mapping) else None
    meta = params.get("_meta") if isinstance(params, Mapping) else None
    return isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta


def error_message(identity: str | int | None, error: ErrorData) -> dict[str, Any]:
    """A JSON-RPC error."""
    fields: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        fields["data"] = error.data
    return {"jsonrpc": "2.0", "id": identity, "error": fields}
