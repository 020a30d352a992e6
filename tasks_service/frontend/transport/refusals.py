"""Counting requests that are refused, by why: before any method sees them, or by a method's error.

All answers pass one of two places, `responding.reject` and `sdk_kernel.run_request`, which call this. What an
error says of itself decides: its code, and the data that clients read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR

from ...metrics.series import REFUSED, Refused

OVERLOADED: Final = "overloaded"
"""The `reason` in the data of the error of a front end that has too much to do."""

STOPPING: Final = "stopping"
"""And of one that stops."""

RATE_LIMITED: Final = "rateLimited"
"""And of what a caller does too often, at whichever front end."""

_BY_REASON: Final[Mapping[object, Refused]] = {
    OVERLOADED: Refused.OVERLOAD,
    STOPPING: Refused.STOPPING,
    RATE_LIMITED: Refused.RATE,
}

_BY_STATUS: Final[Mapping[int, Refused]] = {
    HTTPStatus.UNAUTHORIZED: Refused.UNAUTHORISED,
    HTTPStatus.FORBIDDEN: Refused.FORBIDDEN,
    HTTPStatus.MISDIRECTED_REQUEST: Refused.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS: Refused.RATE,
}

_INVALID: Final = frozenset({INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR})


class TaskError(MCPError):
    """The error that a task has ended with, whose code and data its author may have chosen: no refusal."""


def count_rejected(status: int, code: int, data: Any) -> None:
    """Count a request that no method has seen, by its HTTP status and its error."""
    REFUSED.add(_BY_STATUS.get(status) or _reason(code, data) or Refused.INVALID)


def count_error(code: int, data: Any) -> None:
    """Count the error of a method, if it is a refusal and not the outcome of what was asked."""
    if (reason := _reason(code, data)) is not None:
        REFUSED.add(reason)


def _reason(code: int, data: Any) -> Refused | None:
    told: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    if (reason := _BY_REASON.get(told.get("reason"))) is not None:
        return reason
    if "setting" in told:
        return Refused.QUOTA
    if code == INTERNAL_ERROR and "retryAfterMs" in told:
        return Refused.STORE
    return Refused.INVALID if code in _INVALID else None
