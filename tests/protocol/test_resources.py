"""Resources and templates, in both eras."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest
from mcp.client.client import Client
from mcp_types import Annotations, TextResourceContents
from pydantic import BaseModel

from tasks_service import ProtocolError, RequestContext, ResourceNotFound, Settings, TaskService
from tasks_service.authoring.library import Library
from tests.kit.sessions import SessionClient
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

ENDS: dict[str, BaseException] = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "CancelledError": asyncio.CancelledError(),
    "StopIteration": StopIteration(),
    "BaseException": BaseException(),
}
"""What a function may raise that would end a process, a task, or the wait for a thread."""


RELEASE = threading.Event()
"""Lets functions go that a test holds up."""

STARTED, CANCELLED = threading.Event(), threading.Event()
"""Set when `acme://patient` is read, and when its reader has gone."""


class Scene(BaseModel):
    name: str
    frames: int


class Format(StrEnum):
    PNG = "png"
    GIF = "gif"


@pytest.fixture
def library() -> Library:
    service = TaskService("Acme", settings=Settings(redis_url=None))
    for event in (RELEASE, STARTED, CANCELLED):
        event.clear()

    @service.resource(
        "acme://readme",
        title="Read me",
        mime_type="text/markdown",
        annotations=Annotations(audience=["user"], priority=0.5),
        cache=timedelta(minutes=5),
        public=True,
    )
    def readme() -> str:
        """What this is."""
        return "# Acme"

    @service.resource("acme://logo", mime_type="image/png")
    async def logo() -> bytes:
        return b"\x89PNG"

    @service.resource("acme://plain")
    def plain() -> bytes:
        return b"\x00"

    @service.resource("acme://scenes", name="all scenes")
    def scenes() -> list[Scene]:
        return [Scene(name="kitchen", frames=3)]

    @service.resource("acme://scenes/{scene}", mime_type="application/json")
    async def scene_of(scene: str) -> Scene:
        """One scene."""
        if scene == "attic":
            raise ResourceNotFound("there is no attic")
        return Scene(name=scene, frames=3)

    @service.resource("acme://scenes/{scene}/frames/{frame}.{kind}")
    def frame_of(scene: str, frame: int, kind: Format) -> str:
        return f"{scene} {frame + 1} {kind.value}"

    @service.resource("acme://files/{+path}")
    def file(path: str) -> str:
        return path

    @service.resource("acme://whoami")
    def whoami(context: RequestContext) -> str:
        return context.owner

    @service.resource("acme://broken")
    def broken() -> str:
        raise ValueError("secret db password=hunter2")

    @service.resource("acme://ends/{name}")
    def ends(name: str) -> str:
        raise ENDS[name]

    @service.resource("acme://ends-async/{name}")
    async def ends_async(name: str) -> str:
        raise ENDS[name]

    @service.resource("acme://refused")
    def refused() -> str:
        raise ProtocolError(4050, "The licence has run out.", {"since": 2025})

    @service.resource("acme://search{?words,limit}")
    def search(words: str | None, limit: int = 10) -> list[Any]:
        return [words, limit]

    @service.resource("acme://unsayable")
    def unsayable() -> str:
        raise ProtocolError(4050, "half \ud800 a pair", {1, 2})

    @service.resource("acme://odd")
    def odd() -> Any:
        return float("nan")

    @service.resource("acme://huge")
    def huge() -> str:
        return "x" * 2_000_000

    @service.resource("acme://slow", timeout=timedelta(milliseconds=200))
    def slow() -> str:
        RELEASE.wait(20)
        return "late"

    @service.resource("acme://patient")
    async def patient() -> str:
        STARTED.set()
        try:
            await asyncio.sleep(25)
        except asyncio.CancelledError:
            CANCELLED.set()
            raise
        return "too late"

    @service.resource("acme://counted/{n}")
    def counted(n: int) -> Iterator[int]:
        yield from range(n)

    @service.resource("acme://later/{word}")
    def later(word: str) -> Any:
        async def awaited() -> str:
            await asyncio.sleep(0)
            return word

        return awaited()

    return service.library


def read(client: WireClient, uri: str) -> Any:
    return client.request("resources/read", {"uri": uri})


def content(client: WireClient, uri: str) -> dict[str, Any]:
    (found,) = read(client, uri).result["contents"]
    assert found["uri"] == uri
    return dict(found)


def test_what_a_function_comes_to_in_the_end_is_read(client: WireClient) -> None:
    assert json.loads(content(client, "acme://counted/3")["text"]) == [0, 1, 2]
    assert content(client, "acme://later/soon")["text"] == "soon"


# --- 2026-07-28 --------------------------------------------------------------------------------------


def test_resources_are_advertised_and_nothing_else_that_is_not_there(client: WireClient) -> None:
    capabilities = client.request("server/discover").result["capabilities"]
    assert "resources" in capabilities
    assert not {"prompts", "completions"} & set(capabilities)


def test_the_list_has_what_the_author_said_and_can_be_kept(client: WireClient) -> None:
    result = client.request("resources/list").result
    first = result["resources"][0]
    assert first == {
        "uri": "acme://readme",
        "name": "readme",
        "title": "Read me",
        "description": "What this is.",
        "mimeType": "text/markdown",
        "annotations": {"audience": ["user"], "priority": 0.5},
    }
    assert "nextCursor" not in result
    assert (result["ttlMs"], result["cacheScope"]) == (60_000, "public")
    assert result["resultType"] == "complete"
    assert not [listed for listed in result["resources"] if "{" in listed["uri"]]


def test_templates_are_listed_by_themselves(client: WireClient) -> None:
    result = client.request("resources/templates/list").result
    assert result["resourceTemplates"][0] == {
        "uriTemplate": "acme://scenes/{scene}",
        "name": "scene_of",
        "description": "One scene.",
        "mimeType": "application/json",
    }
    assert (result["ttlMs"], result["cacheScope"]) == (60_000, "public")


@pytest.mark.parametrize("method", ["resources/list", "resources/templates/list"])
def test_a_cursor_that_was_never_given_out_is_refused(client: WireClient, method: str) -> None:
    assert client.request(method, {"cursor": "x"}).error["code"] == -32602


def test_text_bytes_and_models_are_read(client: WireClient) -> None:
    assert content(client, "acme://readme") == {
        "uri": "acme://readme",
        "mimeType": "text/markdown",
        "text": "# Acme",
    }
    logo = content(client, "acme://logo")
    assert (logo["mimeType"], base64.b64decode(logo["blob"])) == ("image/png", b"\x89PNG")
    assert content(client, "acme://plain")["mimeType"] == "application/octet-stream"
    scenes = content(client, "acme://scenes")
    assert (scenes["mimeType"], scenes["text"]) == (
        "application/json",
        '[{"name":"kitchen","frames":3}]',
    )


def test_a_templates_values_are_decoded_and_converted(client: WireClient) -> None:
    assert content(client, "acme://scenes/big%20hall")["text"] == '{"name":"big hall","frames":3}'
    assert content(client, "acme://scenes/hall/frames/41.gif")["text"] == "hall 42 gif"
    assert content(client, "acme://files/a/b.txt")["text"] == "a/b.txt"
    assert content(client, "acme://search?words=null")["text"] == '["null",10]'
    assert content(client, "acme://search?limit=3&words=a%20b")["text"] == '["a b",3]'


def test_what_was_read_may_be_kept_only_as_the_author_said(client: WireClient) -> None:
    kept, not_kept = read(client, "acme://readme").result, read(client, "acme://logo").result
    assert (kept["ttlMs"], kept["cacheScope"]) == (300_000, "public")
    assert (not_kept["ttlMs"], not_kept["cacheScope"]) == (0, "private")


@pytest.mark.parametrize(
    "uri",
    [
        "acme://nothing",
        "acme://scenes/hall/frames/first.gif",
        "acme://scenes/hall/frames/1.svg",
        "acme://scenes/attic",
        "acme://files/../etc/passwd",
        "acme://search?limit=3",
        "acme://search?words=x&limit=few",
        "acme://files/%2e%2e/etc/passwd",
        "",
    ],
)
def test_an_unknown_uri_is_refused_and_named(client: WireClient, uri: str) -> None:
    reply = read(client, uri)
    assert reply.status == 400
    assert reply.error["code"] == -32602
    assert reply.error["data"] == {"uri": uri}
    assert reply.error["message"].startswith("Resource not found")


def test_the_functions_own_reason_for_not_found_is_told(client: WireClient) -> None:
    assert "there is no attic" in read(client, "acme://scenes/attic").error["message"]


def test_a_uri_without_end_is_refused(client: WireClient) -> None:
    assert read(client, "acme://" + "x" * 10_000).error["code"] == -32600


@pytest.mark.parametrize(
    "uri",
    [
        *("acme://broken", "acme://odd", "acme://unsayable"),
        *(f"acme://{kind}/{name}" for kind in ("ends", "ends-async") for name in ENDS),
    ],
)
def test_a_function_that_fails_tells_the_log_and_nobody_else(
    client: WireClient, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    reply = read(client, uri)
    assert reply.error["code"] == -32603
    assert "hunter2" not in reply.body.decode()
    assert "data" not in reply.error
    wait_until(lambda: [entry for entry in caplog.records if entry.exc_info], "it is logged")


def test_an_authors_own_error_reaches_the_caller(client: WireClient) -> None:
    error = read(client, "acme://refused").error
    assert error == {"code": 4050, "message": "The licence has run out.", "data": {"since": 2025}}


def test_a_resource_larger_than_a_result_may_be_is_an_error_that_says_so(client: WireClient) -> None:
    error = read(client, "acme://huge").error
    assert error["code"] == -32603
    assert "too large" in error["message"]


def test_a_function_has_its_time_and_no_more(client: WireClient) -> None:
    error = read(client, "acme://slow").error
    RELEASE.set()
    assert error["code"] == -32603
    assert "longer than 0.2 s" in error["message"]


def test_slow_functions_hold_up_nobody_else(port: int) -> None:
    """As many as there are threads are stuck; a function on the loop is answered all the same."""
    clients = [WireClient(port) for _ in range(18)]
    threads = [threading.Thread(target=read, args=(client, "acme://slow")) for client in clients]
    for thread in threads:
        thread.start()
    with WireClient(port) as other:
        assert content(other, "acme://logo")["blob"]
    for thread in threads:
        thread.join(20)
    RELEASE.set()
    for client in clients:
        client.close()


def test_a_client_that_hangs_up_ends_the_function(port: int) -> None:
    client = WireClient(port)

    def read_on() -> None:
        with suppress(OSError):  # the connection is ended under it
            read(client, "acme://patient")

    thread = threading.Thread(target=read_on)
    thread.start()
    wait_until(STARTED.is_set, "the function runs")
    client.wait_for_disconnect()
    thread.join(10)
    wait_until(CANCELLED.is_set, "the function is cancelled")


def test_the_function_may_know_who_asks(client: WireClient) -> None:
    first, second = content(client, "acme://whoami")["text"], content(client, "acme://whoami")["text"]
    assert first == second
    assert first


def test_the_header_must_name_what_the_body_names(client: WireClient) -> None:
    reply = client.request("resources/read", {"uri": "acme://readme"}, mcp_name="acme://logo")
    assert (reply.status, reply.error["code"]) == (400, -32020)


def test_the_sdks_client_reads(port: int) -> None:
    async def use() -> None:
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            listed = await client.list_resources()
            templates = await client.list_resource_templates()
            result = await client.read_resource("acme://scenes/hall")
        assert len(listed.resources) == 12
        assert len(templates.resource_templates) == 8
        (found,) = result.contents
        assert isinstance(found, TextResourceContents)
        assert Scene.model_validate_json(found.text).name == "hall"

    asyncio.run(use())


# --- 2025-11-25 --------------------------------------------------------------------------------------


def test_sessions_are_told_of_resources_and_of_nothing_that_is_not_there(ports: list[int]) -> None:
    with SessionClient(ports) as client:
        capabilities = client.initialize()["capabilities"]
    assert "resources" in capabilities
    assert not {"prompts", "completions"} & set(capabilities)


def test_sessions_list_and_read_in_their_own_words(session: SessionClient) -> None:
    listed = session.result("resources/list")
    templates = session.result("resources/templates/list", at=1)
    result = session.result("resources/read", {"uri": "acme://scenes/hall"})

    assert set(listed) == {"resources"}
    assert set(templates) == {"resourceTemplates"}
    assert result == {
        "contents": [
            {
                "uri": "acme://scenes/hall",
                "mimeType": "application/json",
                "text": '{"name":"hall","frames":3}',
            }
        ]
    }


def test_sessions_have_a_code_of_their_own_for_an_unknown_uri(session: SessionClient) -> None:
    error = session.error("resources/read", {"uri": "acme://nothing"})
    assert error["code"] == -32002
    assert error["data"] == {"uri": "acme://nothing"}


def test_failures_tell_sessions_nothing_either(session: SessionClient) -> None:
    error = session.error("resources/read", {"uri": "acme://broken"})
    assert error["code"] == -32603
    assert "hunter2" not in str(error)
    assert session.error("resources/list", {"cursor": "x"})["code"] == -32602
    assert session.error("resources/read", {"uri": "acme://refused"})["code"] == 4050


def test_a_session_can_cancel_a_read(session: SessionClient) -> None:
    stream = session.open("resources/read", {"uri": "acme://patient"}, identity="read")
    wait_until(STARTED.is_set, "the function runs")

    session.notify("notifications/cancelled", {"requestId": "read"}, at=1)

    wait_until(CANCELLED.is_set, "the function is cancelled")
    assert stream.rest() == []
