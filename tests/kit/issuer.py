"""An authorization server of this machine: it publishes keys, signs tokens, and answers questions about them.

It makes any token that a test asks for, good or bad; nobody signs in here.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

CLIENT, SECRET = "tasks", "a secret of the service at its issuer"
USER, APP = "ada", "app-1"
ALL_SCOPES = "tasks:call tasks:read tasks:cancel tasks:answer"


@dataclass(frozen=True)
class SigningKey:
    """A key of the issuer."""

    kid: str | None
    algorithm: str
    private: Any

    @property
    def public(self) -> dict[str, Any]:
        """The key as it is published."""
        algorithms = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        jwk = dict(algorithms[self.algorithm].to_jwk(self.private.public_key(), as_dict=True))
        named = {} if self.kid is None else {"kid": self.kid}
        return {**jwk, **named, "use": "sig", "alg": self.algorithm}


@cache
def signing_key(kid: str | None, algorithm: str = "RS256", bits: int = 2048) -> SigningKey:
    """A key, the same one whenever it is asked for; making one takes long."""
    match algorithm:
        case "RS256":
            return SigningKey(kid, algorithm, rsa.generate_private_key(65537, bits))
        case "ES256":
            return SigningKey(kid, algorithm, ec.generate_private_key(ec.SECP256R1()))
        case _:
            return SigningKey(kid, algorithm, ed25519.Ed25519PrivateKey.generate())


@dataclass
class Issuer:
    """The issuer, as tests see and change it.

    Attributes:
        url: Its identifier, where it is reached.
        keys: What it publishes; the first one signs.
        down: Whether it answers every request with an error.
        asked: How often it was asked for what, by path.
        answers: What it says of a token, by the token: the answer of its introspection endpoint.
    """

    url: str = ""
    keys: list[SigningKey] = field(default_factory=lambda: [signing_key("first")])
    down: bool = False
    asked: dict[str, int] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def claims(self, resource: str, **changes: Any) -> dict[str, Any]:
        """The claims of a good token, but for what is changed; None leaves a claim out."""
        now = time.time()
        claims = {
            "iss": self.url,
            "aud": resource,
            "sub": USER,
            "client_id": APP,
            "scope": ALL_SCOPES,
            "iat": int(now),
            "exp": int(now) + 600,
            "jti": f"{now}",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        resource: str,
        *,
        key: SigningKey | None = None,
        header: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """A signed token; see `claims`."""
        key = key or self.keys[0]
        headers = {"typ": "at+jwt", **({} if key.kid is None else {"kid": key.kid}), **(header or {})}
        # PyJWT writes a type of its own, unless it is given an empty one.
        named = {name: value or "" for name, value in headers.items() if value is not None or name == "typ"}
        return jwt.encode(self.claims(resource, **changes), key.private, key.algorithm, named)

    def opaque(self, resource: str, name: str, **changes: Any) -> str:
        """A token that says nothing by itself."""
        self.answers[name] = {"active": True, "token_type": "Bearer", **self.claims(resource, **changes)}
        return name

    def document(self, path: str) -> dict[str, Any] | None:
        """What is published at a path."""
        match path:
            case "/.well-known/oauth-authorization-server":
                return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
            case "/jwks":
                return {"keys": [key.public for key in self.keys]}
        return None


def segment(value: Any) -> str:
    """A part of a token."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


@contextmanager
def issuing() -> Iterator[Issuer]:
    """An issuer on a port of this machine."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(issuer.document(self.path))

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            expected = base64.b64encode(f"{CLIENT}:{SECRET.replace(' ', '+')}".encode()).decode()
            if self.path != "/introspect" or self.headers.get("authorization") != f"Basic {expected}":
                self._answer(None)
                return
            self._answer(issuer.answers.get(form["token"][0], {"active": False}))

        def _answer(self, document: Mapping[str, Any] | None) -> None:
            issuer.asked[self.path] = issuer.asked.get(self.path, 0) + 1
            body = json.dumps(document).encode()
            self.send_response(500 if issuer.down else 404 if document is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
