"""Requests that get no further."""

from __future__ import annotations

from typing import Any

import pydantic_core
from mcp_types import ErrorData
from starlette.types import Send

from .jsonrpc import error_message
from .outgoing import JSON, send_whole


class Rejection(Exception):
    """A request that gets no further.

    Attributes:
        status: The HTTP status.
        code: The JSON-RPC error code.
        message: What was wrong, what was expected.
        data: The error's data.
        request_id: The id of the request, once it is known.
        headers: To send along.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        data: Any = None,
        request_id: str | int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.data = status, code, message, data
        self.request_id, self.headers = request_id, headers


class Disconnected(Exception):
    """The client is gone; nothing can be answered."""


async def reject(rejection: Rejection, send: Send) -> None:
    """Answer a request that was not let in."""
    error = ErrorData(code=rejection.code, message=rejection.message, data=rejection.data)
    body = pydantic_core.to_json(error_message(rejection.request_id, error))
    await send_whole(send, rejection.status, body, (JSON, *rejection.headers))
