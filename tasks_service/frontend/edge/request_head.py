"""The rules of a request line and its headers (RFC 9112) that a parser leaves to servers.

What two readers of one request could understand differently is refused: a proxy may have let it pass because
of the other reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from mcp_types.jsonrpc import INVALID_REQUEST

from ..transport.rejection import Rejection
from .limits import ConnectionLimits

END: Final = b"\r\n\r\n"
"""What ends the headers."""

_REQUEST_LINE: Final = re.compile(
    rb"[^\x00-\x20\x7f]+ [^\x00-\x20\x7f]+ HTTP/(?P<version>[0-9]+\.[0-9]+)\r\n"
)

_ABSOLUTE: Final = re.compile(rb"https?://(?P<authority>[^/?#]*)/", re.IGNORECASE)
"""A target that names its host, as clients send it to proxies (RFC 9112, 3.2.2)."""

Headers = Sequence[tuple[bytes, bytes]]


def check_begun(received: bytes | bytearray) -> None:
    """Refuse what cannot become a request, as soon as that can be known.

    Raises:
        Rejection: 400; lines do not end as they should, or the first is no request line. 505; it is one of
            another version of HTTP.
    """
    line_end = received.find(b"\n")
    if line_end < 0:
        return
    if received.count(b"\n") != received.count(b"\r\n"):
        raise bad_request("every line of a request ends with CR and LF")
    line = _REQUEST_LINE.match(received)
    if line is None:
        raise bad_request("the first line is not of the form METHOD TARGET HTTP/1.1")
    if line["version"] not in (b"1.1", b"1.0"):
        raise Rejection(505, INVALID_REQUEST, "This server speaks HTTP/1.1")
    if received.startswith(b"CONNECT "):
        raise Rejection(501, INVALID_REQUEST, "CONNECT: this server is no proxy")


def check_lines(head: bytes, limits: ConnectionLimits) -> None:
    """Refuse a whole head by its lines.

    Raises:
        Rejection: As `check_begun`; 431, there are too many headers.
    """
    check_begun(head)
    lines = head.count(b"\r\n")
    if lines != head.count(b"\r"):
        raise bad_request("every line of a request ends with CR and LF")
    if lines - 2 > limits.headers:
        raise Rejection(431, INVALID_REQUEST, f"The request has more than {limits.headers} headers")


def too_large(limits: ConnectionLimits) -> Rejection:
    """The refusal of a head that has not ended where it must."""
    message = f"The request line and its headers are larger than {limits.head_bytes} bytes"
    return Rejection(431, INVALID_REQUEST, message)


def without_upgrade(head: bytes) -> bytes:
    """A head without `Upgrade`, which a server may ignore (RFC 9110, 7.8); the parser would skip the body."""
    if b"upgrade" not in head.lower():
        return head
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line[:8].lower().startswith(b"upgrade:"))


def check_request(version: str, target: bytes, headers: Headers) -> None:
    """Refuse a request that the parser has taken, and that others may read differently.

    Args:
        version: Of HTTP, as `1.1`.
        target: What stands between the method and the version.
        headers: Names in lower case.

    Raises:
        Rejection: 400; `Host` is missing or there twice, or is another than the target's. 501; the body is
            encoded in a way that is not known here.
    """
    hosts = [value.strip(b" \t") for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise bad_request(f"Host: expected once, and there are {len(hosts)}")
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        if [absolute["authority"].lower()] != [host.lower() for host in hosts]:
            raise bad_request("the target names another host than the Host header")
    elif not target.startswith(b"/"):
        raise bad_request("the target begins with /")
    encodings = [value.strip(b" \t").lower() for name, value in headers if name == b"transfer-encoding"]
    if encodings:
        if encodings != [b"chunked"]:
            raise Rejection(501, INVALID_REQUEST, "Transfer-Encoding: expected chunked alone, or none")
        if version != "1.1" or any(name == b"content-length" for name, _ in headers):
            raise bad_request("Transfer-Encoding: not expected in HTTP/1.0, nor beside Content-Length")


def content_length(headers: Headers) -> int | None:
    """How long the body is of a request that was checked; None: its chunks say so."""
    if any(name == b"transfer-encoding" for name, _ in headers):
        return None
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def bad_request(problem: str) -> Rejection:
    """The refusal of what is no proper HTTP."""
    return Rejection(400, INVALID_REQUEST, f"Bad request: {problem}")
