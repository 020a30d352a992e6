"""Bad tokens of every kind: none opens anything, in either era, and all refusals are the same bytes."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.kit.issuer import Issuer, issuing, segment, signing_key
from tests.kit.servers import RedisServer
from tests.kit.sessions import SessionClient
from tests.kit.wire import Reply, WireClient

from .signing_in import METADATA, RESOURCE, introspecting, signing_in

GOOD_SCOPE = 'scope="tasks:call tasks:read tasks:cancel tasks:answer"'


@dataclass
class Place:
    """A front end, its issuer, and an issuer that it knows nothing of."""

    port: int
    issuer: Issuer
    stranger: Issuer
    session: SessionClient


@pytest.fixture(scope="module")
def place(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory: Path = tmp_path_factory.mktemp("front-end")
    with ExitStack() as stack:
        issuer, stranger = stack.enter_context(issuing()), stack.enter_context(issuing())
        issuer.keys += [signing_key("curve", "ES256"), signing_key("edwards", "EdDSA")]
        port = stack.enter_context(signing_in(issuer, redis_server.url, directory))
        session = stack.enter_context(SessionClient([port], key=issuer.token(RESOURCE)))
        session.initialize()
        yield Place(port, issuer, stranger, session)


Make = Callable[[Issuer, Issuer], str]


def _parts(issuer: Issuer, **changes: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Header, claims and signature of a good token, but for what is changed."""
    token = issuer.token(RESOURCE, **changes)
    header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    return header, claims, token.rpartition(".")[2]


def _with_header(issuer: Issuer, **changes: Any) -> str:
    """A token with another header than was signed."""
    header, claims, signature = _parts(issuer)
    return f"{segment({**header, **changes})}.{segment(claims)}.{signature}"


def _with_claims(issuer: Issuer, **changes: Any) -> str:
    """A token with other claims than were signed."""
    header, claims, signature = _parts(issuer)
    return f"{segment(header)}.{segment({**claims, **changes})}.{signature}"


def _signed_raw(issuer: Issuer, payload: bytes) -> str:
    """A token with any payload, signed by the issuer."""
    key = issuer.keys[0]
    headers = {"typ": "at+jwt", "kid": key.kid}
    return jwt.api_jws.encode(payload, key.private, key.algorithm, headers)


def _signed(issuer: Issuer, **changes: Any) -> str:
    """A token with claims that PyJWT does not sign, signed by the issuer."""
    return _signed_raw(issuer, json.dumps({**issuer.claims(RESOURCE), **changes}).encode())


def _unsigned(issuer: Issuer, algorithm: str) -> str:
    header, claims, _ = _parts(issuer)
    return f"{segment({**header, 'alg': algorithm})}.{segment(claims)}."


def _by_public_key(issuer: Issuer) -> str:
    """Signed with what is public, as if that were a shared secret."""
    pem = issuer.keys[0].private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header, claims, _ = _parts(issuer)
    signed = f"{segment({**header, 'alg': 'HS256'})}.{segment(claims)}"
    return f"{signed}.{segment(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def _own_key(issuer: Issuer, **header: Any) -> str:
    """Signed with a key of the attacker, who names it in the header."""
    return issuer.token(RESOURCE, key=signing_key("attacker"), header=header)


NOW = time.time
KINDS: dict[str, Make] = {
    "one dot": lambda _, __: ".",
    "two dots": lambda _, __: "..",
    "a word": lambda _, __: "token",
    "an API key": lambda _, __: "mU3xQ9wzR7kYb2Lc",
    "four parts": lambda i, _: f"{i.token(RESOURCE)}.e30",
    "five parts, encrypted": lambda i, _: f"{i.token(RESOURCE)}.e30.e30",
    "no signature": lambda i, _: i.token(RESOURCE).rpartition(".")[0] + ".",
    "half a signature": lambda i, _: i.token(RESOURCE)[:-100],
    "a changed signature": lambda i, _: i.token(RESOURCE)[:-5] + "AAAAA",
    "the signature of another token": lambda i, _: _with_claims(i, sub="grace"),
    "changed scopes": lambda i, _: _with_claims(i, scope="tasks"),
    "a later end": lambda i, _: _with_claims(i, exp=2**40),
    "alg none": lambda i, _: _unsigned(i, "none"),
    "alg NONE": lambda i, _: _unsigned(i, "NONE"),
    "alg of a shared secret": lambda i, _: _by_public_key(i),
    "alg that is not taken": lambda i, _: _with_header(i, alg="RS512"),
    "alg of another key": lambda i, _: _with_header(i, alg="ES256"),
    "alg that is no text": lambda i, _: _with_header(i, alg=["RS256"]),
    "no alg": lambda i, _: _with_header(i, alg=None),
    "typ of an ID token": lambda i, _: i.token(RESOURCE, header={"typ": "JWT"}),
    "typ of a proof": lambda i, _: i.token(RESOURCE, header={"typ": "dpop+jwt"}),
    "no typ": lambda i, _: i.token(RESOURCE, header={"typ": None}),
    "crit": lambda i, _: i.token(RESOURCE, header={"crit": ["exp"]}),
    "an unknown kid": lambda i, _: i.token(RESOURCE, header={"kid": "unknown"}),
    "a kid that is a path": lambda i, _: i.token(RESOURCE, header={"kid": "../../dev/null"}),
    "a kid that is no text": lambda i, _: _with_header(i, kid=7),
    "no kid among several keys": lambda i, _: i.token(RESOURCE, header={"kid": None}),
    "a key of the attacker": lambda i, _: _own_key(i, kid="first"),
    "jwk": lambda i, _: _own_key(i, kid="first", jwk=signing_key("attacker").public),
    "jku": lambda i, s: _own_key(i, kid="first", jku=f"{s.url}/jwks"),
    "x5u": lambda i, s: _own_key(i, kid="first", x5u=f"{s.url}/jwks"),
    "another issuer, with its key": lambda _, s: s.token(RESOURCE, key=signing_key("strange")),
    "another issuer, with our key": lambda i, s: i.token(RESOURCE, iss=s.url),
    "iss with a slash": lambda i, _: i.token(RESOURCE, iss=f"{i.url}/"),
    "iss in capitals": lambda i, _: i.token(RESOURCE, iss=i.url.upper()),
    "no iss": lambda i, _: i.token(RESOURCE, iss=None),
    "iss that is a list": lambda i, _: _signed_raw(
        i, json.dumps({**i.claims(RESOURCE), "iss": [i.url]}).encode()
    ),
    "another audience": lambda i, _: i.token("https://other.example.com/mcp"),
    "the audience of a part": lambda i, _: i.token(f"{RESOURCE}/part"),
    "the audience of the host": lambda i, _: i.token("https://tasks.example.com"),
    "the audience of another scheme": lambda i, _: i.token("http://tasks.example.com/mcp"),
    "no audience": lambda i, _: i.token(RESOURCE, aud=None),
    "an empty audience": lambda i, _: i.token(RESOURCE, aud=[]),
    "an audience that is an object": lambda i, _: i.token(RESOURCE, aud={RESOURCE: True}),
    "ended": lambda i, _: i.token(RESOURCE, exp=int(NOW()) - 1),
    "no end": lambda i, _: i.token(RESOURCE, exp=None),
    "an end that is a text": lambda i, _: _signed_raw(
        i, json.dumps({**i.claims(RESOURCE), "exp": "2040"}).encode()
    ),
    "an end that is true": lambda i, _: _signed_raw(
        i, json.dumps({**i.claims(RESOURCE), "exp": True}).encode()
    ),
    "an end without end": lambda i, _: _signed_raw(
        i, json.dumps(i.claims(RESOURCE)).replace('"exp": ', '"exp": 1e999, "was": ').encode()
    ),
    "not good yet": lambda i, _: i.token(RESOURCE, nbf=int(NOW()) + 120),
    "issued in the future": lambda i, _: i.token(RESOURCE, iat=int(NOW()) + 120),
    "no subject": lambda i, _: i.token(RESOURCE, sub=None),
    "an empty subject": lambda i, _: i.token(RESOURCE, sub=""),
    "half a character as subject": lambda i, _: i.token(RESOURCE, sub="\ud800"),
    "no client": lambda i, _: i.token(RESOURCE, client_id=None),
    "bound to a key": lambda i, _: i.token(RESOURCE, cnf={"jkt": "thumbprint"}),
    "scopes that are numbers": lambda i, _: i.token(RESOURCE, scope=[1, 2]),
    "two members of one name": lambda i, _: _signed_raw(
        i, json.dumps(i.claims(RESOURCE)).replace("{", '{"sub": "root", ', 1).encode()
    ),
    "a payload that is a list": lambda i, _: _signed_raw(i, b"[]"),
    "a payload that is no JSON": lambda i, _: _signed_raw(i, b"\xff\xfe"),
    "a payload nested too deeply": lambda i, _: _signed_raw(i, b'{"a":' * 900 + b"1" + b"}" * 900),
    "too large": lambda i, _: i.token(RESOURCE, padding="x" * 5_700),
    "another good token behind it": lambda i, _: f"{i.token(RESOURCE)} {i.token(RESOURCE)}",
}


def test_there_are_at_least_forty_kinds() -> None:
    assert len(KINDS) >= 40


def attempts(place: Place, authorization: str | None) -> dict[str, Reply]:
    """What each way in answers to a header."""
    with WireClient(place.port) as client:
        later = {"authorization": authorization}
        ways = {
            "call": client.request("tools/call", {"name": "greet", "arguments": {"name": "Ada"}}, **later),
            "get": client.request("tasks/get", {"taskId": "unknown"}, **later),
            "listen": client.request("subscriptions/listen", {"notifications": {}}, **later),
        }
        headers = place.session.headers(authorization=authorization)
        initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tasks/list", "params": {}}
        first = {name: value for name, value in headers.items() if not name.startswith("mcp-")}
        ways["initialize"] = client.post(json.dumps(initialize).encode(), first)
        ways["tasks/list"] = client.post(json.dumps(listing).encode(), headers)
        ways["session's stream"] = client.post(b"", headers, method="GET")
        ways["session's end"] = client.post(b"", headers, method="DELETE")
        return ways


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_token_opens_nothing(place: Place, kind: str) -> None:
    token = KINDS[kind](place.issuer, place.stranger)

    refused = attempts(place, f"Bearer {token}")

    expected = attempts(place, "Bearer x")
    for way, reply in refused.items():
        assert reply.status == 401, (way, reply)
        assert (reply.body, reply.headers["www-authenticate"]) == (
            expected[way].body,
            f'Bearer error="invalid_token", resource_metadata="{METADATA}", {GOOD_SCOPE}',
        ), way


@pytest.mark.parametrize("header", [None, "Bearer", "Basic YWRhOnNlY3JldA==", "token"])
def test_without_a_token_the_challenge_names_no_error(place: Place, header: str | None) -> None:
    for way, reply in attempts(place, header).items():
        assert reply.status == 401, way
        assert reply.headers["www-authenticate"] == f'Bearer resource_metadata="{METADATA}", {GOOD_SCOPE}'


@pytest.mark.parametrize("algorithm", ["first", "curve", "edwards"])
def test_a_good_token_opens_every_way(place: Place, algorithm: str) -> None:
    (key,) = [key for key in place.issuer.keys if key.kid == algorithm]
    token = place.issuer.token(RESOURCE, key=key, aud=["https://else.example.com", f"{RESOURCE}/"])

    with WireClient(place.port, key=token) as client:
        assert client.request("tools/list").status == 200
        assert client.task("greet", {"name": "Ada"})
    with SessionClient([place.port], key=token) as session:
        session.initialize()
        assert session.result("tasks/list", {})["tasks"]


def test_two_tokens_in_two_headers_are_a_bad_request(place: Place) -> None:
    good = place.issuer.token(RESOURCE)
    for first, second in ((good, "bad"), ("bad", good), (good, good)):
        connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=30)
        with WireClient(place.port) as client:
            headers = client.headers("tools/list", {})
            body = json.dumps(client.message("tools/list", {})).encode()
        connection.putrequest("POST", "/mcp")
        for name, value in {**headers, "content-length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.putheader("authorization", f"Bearer {first}")
        connection.putheader("Authorization", f"Bearer {second}")
        connection.endheaders(body)
        assert connection.getresponse().status == 400
        connection.close()


ANSWERS: dict[str, dict[str, Any]] = {
    "not active": {"active": False},
    "active as a text": {"active": "true"},
    "active as a number": {"active": 1},
    "active of nothing": {"active": None},
    "another audience": {"aud": "https://other.example.com/mcp"},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://other.example.com"},
    "ended": {"exp": 1},
    "no end": {"exp": None},
    "not good yet": {"nbf": 2**40},
    "no subject": {"sub": None},
    "no client": {"client_id": None},
    "bound to a key": {"cnf": {"x5t#S256": "thumbprint"}},
    "a proof is needed": {"token_type": "DPoP"},
}


def test_what_the_issuer_says_of_a_bad_token_opens_nothing(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("introspecting")
    with (
        issuing() as issuer,
        signing_in(issuer, redis_server.url, directory, **introspecting(issuer)) as port,
        WireClient(port, key=issuer.opaque(RESOURCE, "good")) as client,
    ):
        assert client.request("tools/list").status == 200
        for kind, changes in ANSWERS.items():
            issuer.opaque(RESOURCE, kind.replace(" ", "-"))
            answer = issuer.answers[kind.replace(" ", "-")]
            answer.update(changes)
            for name in [name for name, value in changes.items() if value is None]:
                del answer[name]
            reply = client.request("tools/list", authorization=f"Bearer {kind.replace(' ', '-')}")
            assert reply.status == 401, kind
        assert client.request("tools/list", authorization="Bearer unknown").status == 401
