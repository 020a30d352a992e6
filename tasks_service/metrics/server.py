"""`/metrics` over HTTP, in a thread of its own, at an address of its own.

Who may read it: on a loopback address, whoever is on this machine; with a key, whoever sends it. It tells how
much work there is, of which tools, and how well it goes, and nothing of any caller. A page in a browser on
this machine cannot read it: the name that it would have to use for this address is no loopback one.
"""

from __future__ import annotations

import hmac
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from ..addresses.web import is_loopback_host, parse_host

logger = logging.getLogger(__name__)

PATH: Final = "/metrics"

AT_ONCE: Final = 8
"""Scrapes that are answered at a time; further connections are closed."""

PATIENCE_SECONDS: Final = 5.0
"""How long a client may take to send its request, and to take the answer."""

WsgiApp = Callable[..., Iterable[bytes]]


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves one WSGI application to few clients at a time.

    Args:
        host: The address.
        port: The port.
        app: Answers a scrape.
        key: What readers must send as a bearer token; None: nothing, but then they must be on this machine.

    Raises:
        OSError: It cannot listen there.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, app: WsgiApp, key: str | None) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._process = os.getpid()
        self.set_app(_Door(app, key))
        os.register_at_fork(after_in_child=self._leave)

    def server_bind(self) -> None:
        """Bind, without asking a name server who this machine is."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def _leave(self) -> None:
        """In a child: leave the address to the parent."""
        self.socket.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there is room for one more."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say little of clients that hang up."""
        logger.debug("A scrape was broken off", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log nothing of requests: they come every few seconds."""


class _Door:
    """Answers at one path, to who may read it.

    Args:
        app: Answers a scrape.
        key: See `MetricsServer`.
    """

    def __init__(self, app: WsgiApp, key: str | None) -> None:
        self._app, self._key = app, None if key is None else key.encode()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status = self._refusal(environ)
        if status is None:
            return self._app({**environ, "QUERY_STRING": ""}, start_response)
        challenge = [("WWW-Authenticate", "Bearer")] if status is HTTPStatus.UNAUTHORIZED else []
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain"), *challenge])
        return [status.phrase.encode() + b"\n"]

    def _refusal(self, environ: dict[str, Any]) -> HTTPStatus | None:
        if environ.get("PATH_INFO") != PATH:
            return HTTPStatus.NOT_FOUND
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED
        if self._key is None:
            return None if _is_local(environ.get("HTTP_HOST", "")) else HTTPStatus.MISDIRECTED_REQUEST
        scheme, _, sent = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        given = sent.strip().encode("latin-1", "replace")
        knows = scheme.lower() == "bearer" and hmac.compare_digest(given, self._key)
        return None if knows else HTTPStatus.UNAUTHORIZED


def _is_local(host: str) -> bool:
    """Whether a request was sent to this machine by a name that nobody else can give it."""
    try:
        name, _ = parse_host(host)
    except ValueError:
        return False
    return is_loopback_host(name.strip("[]"))
