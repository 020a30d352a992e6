"""How a client is told over HTTP that this front end cannot serve it for now: 503, and when to come back.

An error of a method has HTTP status 200, or one that its code stands for. Overload is another matter, and so
is a front end that stops: proxies and clients that look at the status alone can send the request to another
front end, or wait. So 503 is only said where nothing was recorded; and so is 429, to a caller who asks
too often.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_types.jsonrpc import INTERNAL_ERROR

from ..transport.refusals import OVERLOADED, RATE_LIMITED, STOPPING
from ..transport.responding import Answer

_STATUS: Mapping[object, int] = {OVERLOADED: 503, STOPPING: 503, RATE_LIMITED: 429}


def overload_answer(message: Mapping[str, Any]) -> Answer | None:
    """The answer to a request that may be sent again, elsewhere at once or later; None to any other."""
    error = message.get("error", {})
    data = error.get("data") if error.get("code") == INTERNAL_ERROR else None
    if not isinstance(data, Mapping) or (status := _STATUS.get(data.get("reason"))) is None:
        return None
    if data["mayHaveBeenRecorded"]:
        return None
    return Answer(message, status, retry_after(data["retryAfterMs"]))


def retry_after(milliseconds: int) -> tuple[tuple[bytes, bytes], ...]:
    """The header that says when to come back, in whole seconds (RFC 9110, 10.2.3)."""
    return ((b"retry-after", str(-(-milliseconds // 1000)).encode()),)
