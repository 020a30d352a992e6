"""Errors that end a message's way before any method sees it."""

from __future__ import annotations

from typing import Any


class Rejection(Exception):
    """A message that is refused before any method sees it.

    Attributes:
        status: The HTTP status.
        code: The JSON-RPC error code.
        message: What was wrong, what was expected.
        data: The error's data.
        request_id: The id of the request, once it is known.
        headers: HTTP headers to send along.
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
