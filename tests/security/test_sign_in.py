"""Signing in: what a token allows, whose it is, where clients find out, and what ends with it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.applications import Starlette
from starlette.routing import Mount

from tasks_service import ConfigurationError, Identity, RequestContext
from tasks_service.authoring.library import Library
from tasks_service.authoring.resource import build_resource
from tasks_service.domain.events import Claim
from tasks_service.frontend.access.protected_resource import WELL_KNOWN
from tasks_service.frontend.app import check_settings
from tasks_service.frontend.timings import DEFAULT_TIMINGS
from tests.kit.announcing import announcing
from tests.kit.hand_worker import Worker
from tests.kit.issuer import ALL_SCOPES, Issuer, issuing, signing_key
from tests.kit.serving import front_end_of, serving, serving_codeless, settings
from tests.kit.sessions import SessionClient
from tests.kit.waiting import wait_until
from tests.kit.wire import Reply, WireClient
from tests.protocol.test_mounting import served

from .signing_in import KEY, METADATA, RESOURCE, introspecting, signing_in, tools


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


@pytest.fixture(autouse=True)
def _as_it_was(issuer: Issuer) -> None:
    issuer.keys, issuer.down = [signing_key("first")], False
    issuer.asked.clear()


@pytest.fixture
def port(issuer: Issuer, redis_url: str, tmp_path: Path) -> Iterator[int]:
    with signing_in(issuer, redis_url, tmp_path, api_keys=f"robot:{KEY}") as port:
        yield port


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Client = Callable[..., WireClient]


@pytest.fixture
def client(issuer: Issuer, port: int, closing: ExitStack) -> Client:
    """Makes a client whose token has such claims."""

    def make(**claims: Any) -> WireClient:
        return closing.enter_context(WireClient(port, key=issuer.token(RESOURCE, **claims)))

    return make


def session(issuer: Issuer, port: int, closing: ExitStack, **claims: Any) -> SessionClient:
    made = closing.enter_context(SessionClient([port], key=issuer.token(RESOURCE, **claims)))
    made.initialize()
    return made


def scopes_asked_for(reply: Reply) -> list[str]:
    """What a 403 says that is needed."""
    assert reply.status == 403, reply
    challenge = reply.headers["www-authenticate"]
    assert challenge.startswith(f'Bearer error="insufficient_scope", resource_metadata="{METADATA}", scope="')
    return challenge.rpartition('scope="')[2].removesuffix('"').split()


# --- scopes ---

LATER: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "call": ("tools/call", {"name": "greet", "arguments": {}}, ["tasks:call"]),
    "an unknown tool": ("tools/call", {"name": "unknown", "arguments": {}}, ["tasks:call"]),
    "a tool with scopes": ("tools/call", {"name": "publish"}, ["tasks:call", "reports:write"]),
    "a call with answers": (
        "tools/call",
        {"name": "greet", "arguments": {}, "inputResponses": {}},
        ["tasks:call", "tasks:answer"],
    ),
    "task_status": ("tools/call", {"name": "task_status", "arguments": {}}, ["tasks:read"]),
    "task_result": ("tools/call", {"name": "task_result", "arguments": {}}, ["tasks:read"]),
    "task_answer": ("tools/call", {"name": "task_answer", "arguments": {}}, ["tasks:answer"]),
    "task_cancel": ("tools/call", {"name": "task_cancel", "arguments": {}}, ["tasks:cancel"]),
    "get": ("tasks/get", {"taskId": "x"}, ["tasks:read"]),
    "update": ("tasks/update", {"taskId": "x", "inputResponses": {}}, ["tasks:answer"]),
    "cancel": ("tasks/cancel", {"taskId": "x"}, ["tasks:cancel"]),
    "listen": ("subscriptions/listen", {"notifications": {}}, ["tasks:read"]),
    "prompt": ("prompts/get", {"name": "x"}, ["tasks:read"]),
    "resource": ("resources/read", {"uri": "acme://x"}, ["tasks:read"]),
}
EARLIER: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    **{name: LATER[name] for name in ("call", "a tool with scopes", "task_answer", "get", "cancel")},
    "call as a task": ("tools/call", {"name": "greet", "arguments": {}, "task": {}}, ["tasks:call"]),
    "result": ("tasks/result", {"taskId": "x"}, ["tasks:read"]),
    "list": ("tasks/list", {}, ["tasks:read"]),
    "subscribe": ("resources/subscribe", {"uri": "acme://x"}, ["tasks:read"]),
}


@pytest.mark.parametrize("what", LATER)
def test_a_request_needs_its_scopes_and_is_told_all_of_them(client: Client, what: str) -> None:
    method, params, needed = LATER[what]
    others = sorted(set(ALL_SCOPES.split()) - set(needed))

    refused = client(scope=" ".join(others)).request(method, params)

    assert scopes_asked_for(refused) == needed
    assert refused.error["data"] == {"requiredScopes": needed}
    if method != "subscriptions/listen":
        assert client(scope=" ".join(needed)).request(method, params).status != 403


def test_a_request_in_a_session_needs_its_scopes_whatever_the_session_began_with(
    issuer: Issuer, port: int, closing: ExitStack
) -> None:
    began = session(issuer, port, closing)
    for what, (method, params, needed) in EARLIER.items():
        others = sorted(set(ALL_SCOPES.split()) - set(needed))
        weak = f"Bearer {issuer.token(RESOURCE, scope=' '.join(others))}"
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        assert scopes_asked_for(began.post(message, authorization=weak)) == needed, what
        enough = f"Bearer {issuer.token(RESOURCE, scope=' '.join(needed))}"
        if method != "tools/call":
            assert began.post(message, authorization=enough).status == 200, what


def test_an_answer_and_a_stream_of_a_session_need_their_scopes(
    issuer: Issuer, port: int, closing: ExitStack
) -> None:
    began = session(issuer, port, closing)
    answer = {"jsonrpc": "2.0", "id": "q", "result": {"action": "accept"}}
    weak = f"Bearer {issuer.token(RESOURCE, scope='tasks:call')}"

    assert scopes_asked_for(began.post(answer, authorization=weak)) == ["tasks:answer"]
    stream = began.post(b"", method="GET", authorization=weak, accept="text/event-stream")
    assert scopes_asked_for(stream) == ["tasks:read"]
    assert began.post(answer).status == 202


def test_a_batch_needs_the_scopes_of_all_its_messages(issuer: Issuer, port: int, closing: ExitStack) -> None:
    began = closing.enter_context(SessionClient([port], key=issuer.token(RESOURCE), version="2025-03-26"))
    began.initialize()
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "publish"}}
    answer = {"jsonrpc": "2.0", "id": "q", "result": {}}
    weak = f"Bearer {issuer.token(RESOURCE, scope='tasks:read')}"

    refused = began.post([call, answer], authorization=weak)

    assert sorted(scopes_asked_for(refused)) == ["reports:write", "tasks:answer", "tasks:call"]


@pytest.mark.parametrize("broad", ["tasks", "tasks reports", "reports tasks:call"])
def test_a_broad_scope_implies_the_narrow_ones(client: Client, broad: str) -> None:
    replies = client(scope=broad).call("publish"), client(scope=broad).call("greet", {"name": "Ada"})

    assert [reply.status for reply in replies] == [200 if "reports" in broad else 403, 200]


@pytest.mark.parametrize("narrow", ["tasks:call:greet", "task", "tasks:", "tasks:cal", "reports:writer"])
def test_a_narrow_or_similar_scope_implies_nothing_else(client: Client, narrow: str) -> None:
    assert client(scope=narrow).call("greet", {"name": "Ada"}).status == 403


@pytest.mark.parametrize("claims", [{"scp": "tasks:call"}, {"scp": ["tasks:call"]}])
def test_scopes_are_found_where_issuers_put_them(client: Client, claims: dict[str, Any]) -> None:
    assert client(scope=None, **claims).call("greet", {"name": "Ada"}).status == 200


def test_whoever_has_a_token_may_list_and_discover(client: Client) -> None:
    nothing = client(scope="")
    for method in ("tools/list", "server/discover"):
        assert nothing.request(method).status == 200


def test_an_api_key_beside_sign_in_is_limited_by_no_scopes(port: int, redis_url: str) -> None:
    with WireClient(port, key=KEY) as robot:
        caller = claimed(redis_url, robot.task("whoami"))
        assert robot.call("publish").status == 200
    assert caller == Identity(issuer="api-key", subject="robot")
    assert caller.has_scope("anything")


def test_where_the_issuer_knows_no_scopes_only_those_of_tools_are_required(
    issuer: Issuer, redis_url: str, tmp_path: Path
) -> None:
    with (
        signing_in(issuer, redis_url, tmp_path, oauth_scopes="") as port,
        WireClient(port, key=issuer.token(RESOURCE, scope=None)) as client,
        WireClient(port) as nobody,
    ):
        assert client.call("greet", {"name": "Ada"}).status == 200
        assert scopes_asked_for(client.call("publish")) == ["reports:write"]
        challenge = nobody.request("tools/list").headers["www-authenticate"]
        assert challenge == f'Bearer resource_metadata="{METADATA}"'


def test_scopes_are_asked_for_as_issuers_name_them(issuer: Issuer, redis_url: str, tmp_path: Path) -> None:
    changes = {"oauth_scopes": "tasks", "oauth_scope_prefix": "api://tasks/"}
    with (
        signing_in(issuer, redis_url, tmp_path, **changes) as port,
        WireClient(port, key=issuer.token(RESOURCE, scope="tasks:read")) as weak,
    ):
        assert scopes_asked_for(weak.call("greet", {})) == ["api://tasks/tasks"]
        for scope in ("tasks", "api://tasks/tasks"):
            with WireClient(port, key=issuer.token(RESOURCE, scope=scope)) as client:
                assert client.call("greet", {"name": "Ada"}).status == 200
        assert weak.probe(WELL_KNOWN).json["scopes_supported"] == ["api://tasks/tasks"]


# --- whose it is ---


def claimed(redis_url: str, task_id: str) -> Identity:
    """Who has called, as the worker that takes the task learns it."""
    worker = Worker(redis_url, tools())
    try:
        return worker.store.claim(task_id, Claim(lease_id="lease", worker="test")).caller
    finally:
        worker.close()


def test_the_caller_is_recorded_with_the_task_and_the_token_is_not(
    issuer: Issuer, redis_url: str, tmp_path: Path
) -> None:
    token = issuer.token(RESOURCE, email="ada@example.com", groups=["a", "b"], secret="not chosen")
    with (
        signing_in(issuer, redis_url, tmp_path, oauth_claims="email,groups,absent") as port,
        WireClient(port, key=token) as client,
    ):
        task_id = client.task("whoami")
    with redis.Redis.from_url(redis_url) as stored:
        dumps = [stored.hgetall(name) for name in stored.scan_iter("*") if stored.type(name) == b"hash"]
        assert dumps and not any(token[-40:].encode() in repr(dump).encode() for dump in dumps)
        assert "not chosen" not in repr(dumps)
    assert claimed(redis_url, task_id) == Identity(
        issuer=issuer.url,
        subject="ada",
        client_id="app-1",
        scopes=tuple(sorted(ALL_SCOPES.split())),
        claims={"email": "ada@example.com", "groups": ["a", "b"]},
    )


def test_a_resource_is_told_who_reads_it(issuer: Issuer, redis_url: str, tmp_path: Path) -> None:
    def desk(context: RequestContext) -> str:
        return f"the desk of {context.caller.subject}, through {context.caller.client_id}"

    library = Library()
    library.resources.add(build_resource("acme://desk", desk, {}))
    configured = settings(redis_url, tmp_path, oauth_issuers=issuer.url, oauth_resource=RESOURCE)
    with (
        serving(tools(), configured, library) as port,
        WireClient(port, key=issuer.token(RESOURCE, scope="tasks:read")) as later,
        SessionClient([port], key=issuer.token(RESOURCE, scope="tasks:read")) as earlier,
    ):
        earlier.initialize()
        (read,) = later.request("resources/read", {"uri": "acme://desk"}).result["contents"]
        (read_earlier,) = earlier.result("resources/read", {"uri": "acme://desk"})["contents"]
        assert read["text"] == read_earlier["text"] == "the desk of ada, through app-1"


def test_nobody_sees_the_tasks_of_another_user_client_or_issuer(
    issuer: Issuer, redis_url: str, tmp_path: Path, closing: ExitStack
) -> None:
    with issuing() as second:
        second.keys = [signing_key("second")]
        port = closing.enter_context(
            signing_in(issuer, redis_url, tmp_path, oauth_issuers=(issuer.url, second.url))
        )
        mine = closing.enter_context(WireClient(port, key=issuer.token(RESOURCE)))
        task_id = mine.task("greet", {"name": "Ada"})
        began = session(issuer, port, closing)
        assert mine.get(task_id)["taskId"] == task_id
        for other in (
            issuer.token(RESOURCE, sub="grace"),
            issuer.token(RESOURCE, client_id="app-2"),
            second.token(RESOURCE),
        ):
            with WireClient(port, key=other) as client:
                reply = client.request("tasks/get", {"taskId": task_id})
                unknown = client.request("tasks/get", {"taskId": task_id[:-1] + "x"})
                assert (reply.status, reply.body) == (unknown.status, unknown.body)
            message = {"jsonrpc": "2.0", "id": 1, "method": "tasks/list", "params": {}}
            assert began.post(message, authorization=f"Bearer {other}").status == 404


# --- where clients find out ---


def metadata_of(resource: str, issuer: Issuer, name: str = "Test service") -> dict[str, Any]:
    return {
        "resource": resource,
        "authorization_servers": [issuer.url],
        "scopes_supported": ALL_SCOPES.split(),
        "bearer_methods_supported": ["header"],
        "resource_name": name,
    }


@pytest.mark.parametrize("path", [WELL_KNOWN, f"{WELL_KNOWN}/", f"{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/mcp/"])
def test_the_metadata_is_at_both_well_known_paths_for_everybody(issuer: Issuer, port: int, path: str) -> None:
    with WireClient(port) as nobody:
        reply = nobody.probe(path)
        assert (reply.status, reply.json) == (200, metadata_of(RESOURCE, issuer))
        assert nobody.post(b"", {}, method="HEAD", path=path).status == 200
        assert nobody.post(b"{}", {}, method="POST", path=path).status == 405


@pytest.mark.parametrize("path", [f"{WELL_KNOWN}/other", f"{WELL_KNOWN}/x/mcp", f"{WELL_KNOWN}mcp"])
def test_other_paths_have_no_metadata(port: int, path: str) -> None:
    with WireClient(port) as nobody:
        assert nobody.probe(path).status == 404


def test_a_service_with_api_keys_alone_has_no_metadata(redis_url: str, tmp_path: Path) -> None:
    with (
        serving(tools(), settings(redis_url, tmp_path, api_keys=f"robot:{KEY}")) as port,
        WireClient(port) as nobody,
    ):
        assert nobody.probe(WELL_KNOWN).status == 404
        assert nobody.request("tools/list").headers["www-authenticate"] == 'Bearer realm="tasks-service"'


def test_a_page_may_read_metadata_and_challenge_if_its_origin_may_call(
    issuer: Issuer, redis_url: str, tmp_path: Path
) -> None:
    page, foreign = "https://app.example.com", "https://evil.example.com"
    preflight = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    with signing_in(issuer, redis_url, tmp_path, allowed_origins=page) as port, WireClient(port) as client:
        for path in (WELL_KNOWN, f"{WELL_KNOWN}/mcp"):
            asked = client.post(b"", {"origin": page, **preflight}, method="OPTIONS", path=path)
            read = client.post(b"", {"origin": page}, method="GET", path=path)
            assert [asked.status, read.status] == [200, 200]
            assert asked.headers["access-control-allow-origin"] == page
            assert read.headers["access-control-allow-origin"] == page
            refused = client.post(b"", {"origin": foreign}, method="GET", path=path)
            assert refused.status == 403
            assert "access-control-allow-origin" not in refused.headers
        challenge = client.request("tools/list", origin=page)
        assert challenge.status == 401
        assert "WWW-Authenticate" in challenge.headers["access-control-expose-headers"]


def test_each_service_of_a_front_end_without_code_is_a_resource_of_its_own(
    issuer: Issuer, redis_url: str, tmp_path: Path
) -> None:
    configured = settings(
        redis_url, tmp_path, oauth_issuers=issuer.url, oauth_resource="https://tasks.example.com/tools/mcp"
    )
    with announcing(redis_url) as announcer, serving_codeless(configured) as port:
        announcer.start("Front Desk", *tools().values(), node="celery@a")
        announcer.start("Back Office", *tools().values(), node="celery@b")
        with WireClient(port, path="/front-desk/mcp") as nobody:
            wait_until(lambda: nobody.request("tools/list").status == 401, "the service is served")
            desk = "https://tasks.example.com/tools/front-desk/mcp"
            for path in ("/front-desk/mcp", "/tools/front-desk/mcp"):
                assert nobody.probe(f"{WELL_KNOWN}{path}").json == metadata_of(desk, issuer, "Front Desk")
            challenge = nobody.request("tools/list").headers["www-authenticate"]
            place = "https://tasks.example.com/.well-known/oauth-protected-resource/tools/front-desk/mcp"
            assert f'resource_metadata="{place}"' in challenge
        with WireClient(port, path="/front-desk/mcp", key=issuer.token(desk)) as client:
            assert client.request("tools/list").status == 200
            # What workers announce, the front end checks: it has none of their code.
            assert client.call("publish").status == 403
        with WireClient(port, path="/back-office/mcp", key=issuer.token(desk)) as elsewhere:
            assert elsewhere.request("tools/list").status == 401


def test_an_audience_that_is_configured_takes_the_place_of_the_resource(
    issuer: Issuer, redis_url: str, tmp_path: Path
) -> None:
    with signing_in(issuer, redis_url, tmp_path, oauth_audience="api://tasks,7f3c") as port:
        for audience, status in (("api://tasks", 200), ("7f3c", 200), (RESOURCE, 401), ("7F3C", 401)):
            with WireClient(port, key=issuer.token(audience)) as client:
                assert client.request("tools/list").status == status, audience


def test_an_application_that_mounts_the_front_end_serves_the_metadata_at_its_root(
    issuer: Issuer, redis_url: str, tmp_path: Path
) -> None:
    resource = "https://tasks.example.com/tasks/mcp"
    configured = settings(redis_url, tmp_path, oauth_issuers=issuer.url, oauth_resource=resource)
    front_end = front_end_of(tools(), configured)
    app = Starlette(routes=[*front_end.well_known, Mount("/tasks", front_end)], lifespan=front_end.lifespan)
    with served(app) as port, WireClient(port, path="/tasks/mcp", key=issuer.token(resource)) as client:
        assert client.request("tools/list").status == 200
        for path in ("/tasks/mcp", ""):
            assert client.probe(f"{WELL_KNOWN}{path}").json == metadata_of(resource, issuer)
        assert client.probe(f"/tasks{WELL_KNOWN}/mcp").json == metadata_of(resource, issuer)


# --- what ends with a token ---


def test_streams_end_with_their_token(issuer: Issuer, port: int, closing: ExitStack) -> None:
    began = session(issuer, port, closing)
    task_id = began.task("greet", {"name": "Ada"})
    short = issuer.token(RESOURCE, exp=int(time.time()) + 3)
    headers = {"authorization": f"Bearer {short}"}
    with WireClient(port, key=short) as client:
        message = client.message("subscriptions/listen", {"notifications": {"taskIds": []}})
        listening = threading.Thread(
            target=client.post,
            args=(json.dumps(message).encode(), client.headers("subscriptions/listen", {})),
        )
        listening.start()
        streams = [
            began._open(0, "GET", None, began.headers(accept="text/event-stream", **headers)),
            began.open("tasks/result", {"taskId": task_id}, **headers),
        ]
        begun = time.time()
        for stream in streams:
            stream.rest()
        listening.join(20)
        assert not listening.is_alive()
        assert time.time() - begun < 10


def test_streams_end_when_their_token_is_revoked(
    issuer: Issuer, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks_service.frontend.access.introspection.IntrospectedTokens.longest", 0.2)
    often = replace(DEFAULT_TIMINGS, recheck=0.1)
    with (
        signing_in(issuer, redis_url, tmp_path, often, **introspecting(issuer)) as port,
        SessionClient([port], key=issuer.opaque(RESOURCE, "revoked")) as began,
    ):
        began.initialize()
        stream = began.listen()
        time.sleep(0.5)
        assert stream._thread.is_alive()
        issuer.answers["revoked"] = {"active": False}
        assert stream.rest() == []


def test_callers_go_on_while_the_issuer_is_down_and_new_ones_are_told_to_come_back(
    issuer: Issuer, redis_url: str, tmp_path: Path
) -> None:
    known = issuer.token(RESOURCE)
    with signing_in(issuer, redis_url, tmp_path) as port, WireClient(port, key=known) as client:
        issuer.down = True
        reply = client.request("tools/list")
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) > 0
        issuer.down = False
        wait_until(lambda: client.request("tools/list").status == 200, "the keys are read")
        issuer.down = True
        with WireClient(port, key=issuer.token(RESOURCE, sub="grace")) as another:
            assert [client.request("tools/list").status, another.request("tools/list").status] == [200, 200]


def test_a_key_is_rotated_under_load_without_refusal(issuer: Issuer, redis_url: str, tmp_path: Path) -> None:
    old, new = signing_key("first"), signing_key("second")
    stop, refused = threading.Event(), []

    def call(port: int) -> int:
        done = 0
        while not stop.is_set():
            with WireClient(port, key=issuer.token(RESOURCE, sub=f"user-{done % 7}")) as client:
                for _ in range(3):
                    if (status := client.request("tools/list").status) != 200:
                        refused.append(status)
                    done += 1
        return done

    with signing_in(issuer, redis_url, tmp_path) as port, ThreadPoolExecutor(4) as pool:
        calling = [pool.submit(call, port) for _ in range(4)]
        time.sleep(0.3)
        issuer.keys = [old, new]  # published first, then used
        issuer.keys = [new, old]
        time.sleep(0.5)
        stop.set()
        assert sum(one.result() for one in calling) > 20
    assert refused == []
    assert issuer.asked["/jwks"] == 2


# --- settings ---


def test_signing_in_is_enough_to_serve_other_machines(tmp_path: Path) -> None:
    signed_in = {"oauth_issuers": "https://login.example.com", "oauth_resource": RESOURCE}
    check_settings(settings("redis://127.0.0.1:1", tmp_path, host="0.0.0.0", **signed_in))
    with pytest.raises(ConfigurationError, match="TASKS_OAUTH_ISSUERS"):
        check_settings(settings("redis://127.0.0.1:1", tmp_path, host="0.0.0.0"))


ISSUER = {"oauth_issuers": "https://login.example.com"}
BOTH = {**ISSUER, "oauth_resource": RESOURCE}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (ISSUER, "TASKS_OAUTH_RESOURCE is not"),
        ({"oauth_resource": RESOURCE}, "TASKS_OAUTH_RESOURCE is set, but TASKS_OAUTH_ISSUERS is not"),
        ({"oauth_issuers": "http://login.example.com"}, "expected https"),
        ({"oauth_issuers": "https://user:password@login.example.com"}, "without user and password"),
        ({"oauth_issuers": "https://login.example.com/?a=b"}, "no query"),
        ({"oauth_issuers": "https://login.example.com/#a"}, "without a fragment"),
        ({"oauth_issuers": "login.example.com"}, "expected a URL"),
        ({**BOTH, "oauth_resource": "https://tasks.example.com"}, "the address of /mcp"),
        ({**BOTH, "oauth_resource": "http://tasks.example.com/mcp"}, "expected https"),
        ({**BOTH, "oauth_scopes": 'tasks:"call"'}, "is no scope"),
        ({**BOTH, "oauth_scopes": "tasks:call,offline_access"}, "refresh token"),
        ({**BOTH, "oauth_token_types": "id"}, "expected at.jwt, JWT"),
        ({**BOTH, "oauth_jwks_url": "http://keys.example.com"}, "expected https"),
        ({**BOTH, "oauth_introspection_url": "https://i.example.com"}, "SECRET are needed"),
        ({**BOTH, "oauth_client_id": "a", "oauth_client_secret": "b"}, "is not set"),
        (
            {
                **BOTH,
                "oauth_issuers": "https://a.example,https://b.example",
                "oauth_jwks_url": "https://k.example",
            },
            "belong to one issuer",
        ),
        ({**BOTH, "oauth_owner_binding": "everybody"}, "'client' or 'user'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_a_sentence(
    tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as refusal:
        settings("redis://127.0.0.1:1", tmp_path, **values)
    assert "password@" not in str(refusal.value.errors()[0]["msg"])  # type: ignore[attr-defined]
