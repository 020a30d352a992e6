"""`subscriptions/listen`: what clients of 2026-07-28 are told without asking."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.library import Library
from tasks_service.authoring.resource import build_resource
from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import Progress
from tasks_service.durable.questions import Form
from tasks_service.frontend.timings import Timings
from tasks_service.frontend.v2026_07_28 import subscriptions as listening
from tasks_service.store.announcements import Listed, list_name, resource_name
from tasks_service.store.redis import AsyncRedisTaskStore
from tests.kit.hand_worker import Worker, asked
from tests.kit.serving import serving, settings
from tests.kit.sessions import Message, SessionClient, Stream, is_request
from tests.kit.waiting import wait_until
from tests.kit.wire import WITHOUT_TASKS, WireClient

from .front_end import FrontEnd
from .lifetimes import assert_same_task

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
NAME = asked(Form("Your name?", {"type": "object", "properties": {"name": {"type": "string"}}}))
changed = is_request("notifications/tasks")


def completed(message: Message) -> bool:
    return changed(message) and message["params"]["status"] == "completed"


Listen = Callable[..., Stream]


def open_stream(client: WireClient, notifications: Any, **headers: str | None) -> Stream:
    params = {"notifications": notifications}
    body = json.dumps(client.message("subscriptions/listen", params)).encode()
    stream = Stream(client.port, "POST", body, client.headers("subscriptions/listen", params, **headers))
    opened.append(stream)
    return stream


opened: list[Stream] = []


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


@pytest.fixture
def listen(client: WireClient) -> Listen:
    return lambda **notifications: open_stream(client, notifications)


def frame_of(client: WireClient, task_id: str) -> Message:
    """What a frame must say: what `tasks/get` says, but for three fields."""
    fields = dict(client.get(task_id))
    del fields["resultType"]
    meta = {name: value for name, value in fields["_meta"].items() if "serverInfo" not in name}
    return {**fields, "_meta": {**meta, SUBSCRIPTION: 7}}


# --- tasks ---


def test_a_stream_begins_with_what_is_granted_and_how_each_task_is_now(
    client: WireClient, listen: Listen, worker: Worker
) -> None:
    working, done = client.task("greet", {"name": "Ada"}), client.task("greet", {"name": "Ada"})
    worker.run(done)

    stream = listen(taskIds=[working, "unknown", done])

    acknowledged = stream.next()
    assert acknowledged is not None
    assert acknowledged["method"] == ACKNOWLEDGED
    assert acknowledged["params"]["notifications"] == {"taskIds": [working, done]}
    assert acknowledged["params"]["_meta"] == {SUBSCRIPTION: 7}
    frames = {frame["params"]["taskId"]: frame["params"] for frame in (stream.next(), stream.next()) if frame}
    assert frames.keys() == {working, done}
    assert_same_task(frames[working], frame_of(client, working))
    assert frames[done] == frame_of(client, done)
    assert frames[done]["result"]["content"][0]["text"] == "Hello, Ada!"


def test_every_change_of_a_task_is_told_as_tasks_get_would_tell_it(
    client: WireClient, listen: Listen, worker: Worker
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    stream = listen(taskIds=[task_id])
    assert stream.find(changed)["params"]["status"] == "working"

    worker.ask(task_id, {"name": NAME})
    asks = stream.find(lambda message: message["params"].get("status") == "input_required")
    assert_same_task(asks["params"], frame_of(client, task_id))
    assert asks["params"]["inputRequests"]["name"]["method"] == "elicitation/create"

    client.request("tasks/cancel", {"taskId": task_id})
    ended = stream.find(lambda message: message["params"].get("status") == "cancelled")
    assert ended["params"] == frame_of(client, task_id)
    assert "id" not in ended


def test_changes_come_from_every_front_end(
    redis_url: str, tools: ToolRegistry, ports: list[int], worker: Worker
) -> None:
    with WireClient(ports[0]) as here, WireClient(ports[1]) as there:
        task_id = here.task("greet", {"name": "Ada"})
        stream = open_stream(there, {"taskIds": [task_id]})
        stream.find(changed)

        here.request("tasks/cancel", {"taskId": task_id})

        assert stream.find(changed)["params"]["status"] == "cancelled"


def test_progress_is_never_told(client: WireClient, listen: Listen, worker: Worker) -> None:
    task_id = client.task("greet", {"name": "Ada"}, meta={"progressToken": "p"})
    task, _ = worker.claim(task_id)
    stream = listen(taskIds=[task_id])
    stream.find(changed)

    worker.note(task, progress=Progress(current=1, total=10))
    client.request("tasks/cancel", {"taskId": task_id})

    message = stream.next()
    assert message is not None
    assert (message["method"], message["params"]["status"]) == ("notifications/tasks", "cancelled")


@pytest.mark.parametrize("timings", [Timings(heal=1.0)])
def test_a_change_whose_wake_up_was_lost_is_told_a_little_later(
    client: WireClient, listen: Listen, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, busy = client.task("greet", {"name": "Ada"}), client.task("greet", {"name": "Ada"})
    changes = AsyncRedisTaskStore.changes

    async def lossy(store: AsyncRedisTaskStore) -> AsyncIterator[Any]:
        async for change in changes(store):
            if change is None or change.name != task_hash(task_id):
                yield change

    monkeypatch.setattr(AsyncRedisTaskStore, "changes", lossy)
    stream = listen(taskIds=[task_id, busy])
    worker.run(task_id)
    told = []

    def done() -> bool:
        # The other one is woken all the time, which must not put off the look at this one.
        worker.store.announce(busy)
        told.extend(frame["params"] for frame in stream.arrived() if completed(frame))
        return bool(told)

    wait_until(done, "it is told")
    assert told[0]["taskId"] == task_id


def test_tasks_of_others_are_as_unknown_as_those_that_never_were(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    keys = {"ada": "mU3xQ9wzR7kYb2Lc", "grace": "Hn8vT4sJd6pGq1Wf"}
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=keys)) as port,
        WireClient(port, key="mU3xQ9wzR7kYb2Lc") as ada,
        WireClient(port, key="Hn8vT4sJd6pGq1Wf") as grace,
    ):
        theirs = ada.task("greet", {"name": "Ada"})
        stream = open_stream(grace, {"taskIds": [theirs]})
        acknowledged = stream.next()
        assert acknowledged is not None
        assert acknowledged["params"]["notifications"] == {"taskIds": []}

        ada.request("tasks/cancel", {"taskId": theirs})
        mine = grace.task("greet", {"name": "Grace"})
        other = open_stream(grace, {"taskIds": [mine]})
        other.find(changed)

        assert stream.arrived() == []


def test_hanging_up_leaves_the_task_alone(client: WireClient, listen: Listen) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    stream = listen(taskIds=[task_id])
    stream.find(changed)

    stream.close()

    assert client.get(task_id)["status"] == "working"


# --- refusals ---


def test_tasks_are_told_to_clients_that_declare_the_extension(plain: WireClient) -> None:
    refused = plain.request("subscriptions/listen", {"notifications": {"taskIds": []}})

    assert refused.status == 400
    assert refused.error["code"] == -32021
    assert "io.modelcontextprotocol/tasks" in refused.error["data"]["requiredCapabilities"]["extensions"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"notifications": None},
        {"notifications": {"taskIds": "all"}},
        {"notifications": {"taskIds": [1]}},
        {"notifications": {"taskIds": [str(number) for number in range(101)]}},
        {"notifications": {"resourceSubscriptions": [f"a://{number}" for number in range(101)]}},
    ],
)
def test_wishes_of_the_wrong_shape_are_refused(client: WireClient, params: Any) -> None:
    refused = client.request("subscriptions/listen", params)

    assert refused.error["code"] == -32602


def test_a_client_that_takes_no_events_cannot_listen(client: WireClient) -> None:
    refused = client.request("subscriptions/listen", {"notifications": {}}, accept="application/json")

    assert refused.status == 406
    assert "text/event-stream" in refused.error["message"]


def test_an_owner_has_a_limited_number_of_streams(
    client: WireClient, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "STREAMS_OF_OWNER", 2)
    streams = [listen(toolsListChanged=True) for _ in range(2)]
    for stream in streams:
        stream.next()

    refused = client.request("subscriptions/listen", {"notifications": {}})

    assert refused.error["data"]["limit"] == "open subscriptions"
    streams[0].close()
    wait_until(
        lambda: (third := listen(toolsListChanged=True)).next() and third.status == 200, "there is room again"
    )


# --- announcements ---


def scene(name: str) -> str:
    """A scene."""
    return name


def lobby() -> str:
    """The lobby."""
    return "lobby"


@pytest.fixture
def library() -> Library:
    library = Library()
    library.resources.add(build_resource("acme://lobby", lobby))
    library.resources.add(build_resource("acme://scenes/{name}", scene))
    return library


@pytest.fixture
def two_ports(redis_url: str, tools: ToolRegistry, library: Library, tmp_path: Path) -> Iterator[list[int]]:
    configuration = settings(redis_url, tmp_path)
    with serving(tools, configuration, library) as one, serving(tools, configuration, library) as other:
        yield [one, other]


def test_announced_changes_of_lists_and_resources_reach_who_asked_for_them(
    two_ports: list[int], worker: Worker
) -> None:
    with WireClient(two_ports[0]) as here, WireClient(two_ports[1], capabilities=WITHOUT_TASKS) as there:
        wishes = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": False}
        lists = open_stream(here, wishes)
        resources = open_stream(
            there, {"resourcesListChanged": True, "resourceSubscriptions": ["acme://scenes/a", "acme://none"]}
        )
        first, second = lists.next(), resources.next()
        assert first is not None
        assert second is not None
        # There are no prompts, so nothing of them will be told; and nothing under that address.
        assert first["params"]["notifications"] == {"toolsListChanged": True}
        assert second["params"]["notifications"] == {
            "resourcesListChanged": True,
            "resourceSubscriptions": ["acme://scenes/a"],
        }

        worker.store.announce(resource_name("acme://scenes/b"))
        worker.store.announce(resource_name("acme://scenes/a"))
        worker.store.announce(list_name(Listed.PROMPTS))
        worker.store.announce(list_name(Listed.TOOLS))
        worker.store.announce(list_name(Listed.RESOURCES))

        # Changes that come together are told in any order.
        told, *both = lists.next(), resources.next(), resources.next()
        listed, updated = sorted(both, key=lambda message: "uri" in (message or {})["params"])
        assert told == {
            "jsonrpc": "2.0",
            "method": "notifications/tools/list_changed",
            "params": {"_meta": {SUBSCRIPTION: 7}},
        }
        assert updated is not None
        assert updated["params"] == {"uri": "acme://scenes/a", "_meta": {SUBSCRIPTION: 7}}
        assert listed is not None
        assert listed["method"] == "notifications/resources/list_changed"


def test_sessions_are_told_of_lists_and_of_the_resources_that_they_subscribed_to(
    two_ports: list[int], worker: Worker
) -> None:
    with SessionClient(two_ports) as session:
        capabilities = session.initialize()["capabilities"]
        assert capabilities["tools"]["listChanged"] is True
        assert capabilities["resources"] == {"listChanged": True, "subscribe": True}
        stream = session.listen(at=0)
        assert session.result("resources/subscribe", {"uri": "acme://scenes/a"}, at=1) == {}

        def told(uri: str) -> Message:
            worker.store.announce(resource_name(uri))
            worker.store.announce(list_name(Listed.TOOLS))
            return stream.find(lambda message: True)

        wait_until(
            lambda: told("acme://scenes/a")["method"] == "notifications/resources/updated", "it is told"
        )
        assert session.result("resources/unsubscribe", {"uri": "acme://scenes/a"}, at=1) == {}
        assert session.error("resources/subscribe", {"uri": "acme://none"}, at=1)["code"] == -32002


def test_resource_subscriptions_are_for_sessions(client: WireClient) -> None:
    refused = client.request("resources/subscribe", {"uri": "acme://lobby"})

    assert refused.status == 404
    assert refused.error["code"] == -32601


def test_discovery_says_that_changes_are_told(two_ports: list[int]) -> None:
    with WireClient(two_ports[0]) as client:
        capabilities = client.request("server/discover").result["capabilities"]

    assert capabilities["tools"] == {"listChanged": True}
    assert capabilities["resources"] == {"listChanged": True, "subscribe": True}
    assert "prompts" not in capabilities


# --- the end ---


def test_a_stream_ends_in_order_when_its_key_runs_out(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=8)
    keys = {"ada": {"key": "mU3xQ9wzR7kYb2Lc", "until": ends}}
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=keys)) as port,
        WireClient(port, key="mU3xQ9wzR7kYb2Lc") as client,
        SessionClient([port], key="mU3xQ9wzR7kYb2Lc") as session,
    ):
        session.initialize()
        streams = [open_stream(client, {"toolsListChanged": True}), session.listen()]
        assert streams[0].next() is not None

        result, over = streams[0].rest()[-2:]
        assert result["result"]["_meta"][SUBSCRIPTION] == 7
        assert (over["method"], over["params"]["requestId"]) == ("notifications/cancelled", 7)
        assert streams[1].rest() == []
        assert time.time() >= ends.timestamp() - 0.1
        assert client.request("tools/list").status == 401


def test_a_front_end_that_is_told_to_stop_ends_its_streams_with_a_result(
    redis_url: str, tmp_path: Path, worker: Worker
) -> None:
    front_end = FrontEnd(redis_url, tmp_path)
    try:
        wait_until(front_end.ready, "it is ready")
        with WireClient(front_end.port) as client:
            task_id = client.task("greet", {"name": "Ada"})
            streams = [open_stream(client, {"taskIds": [task_id]}) for _ in range(50)]
            for stream in streams:
                stream.find(changed)

            assert front_end.stop() < 50  # after 60 they would be cut off

            for stream in streams:
                result, over = stream.rest()[-2:]
                assert result["result"]["resultType"] == "complete"
                assert result["result"]["_meta"][SUBSCRIPTION] == 7
                assert (over["method"], over["params"]["requestId"]) == ("notifications/cancelled", 7)
    finally:
        front_end.kill()


def test_a_reader_that_does_not_read_holds_up_nobody_and_gets_the_latest(
    client: WireClient, listen: Listen, worker: Worker
) -> None:
    task_ids = [client.task("greet", {"name": "x" * 50_000}) for _ in range(40)]
    params = {"notifications": {"taskIds": task_ids}}
    unresponsive = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    unresponsive.connect()
    unresponsive.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    body = json.dumps(client.message("subscriptions/listen", params)).encode()
    unresponsive.request("POST", "/mcp", body, client.headers("subscriptions/listen", params))
    attentive = listen(taskIds=task_ids[-1:])
    attentive.find(changed)

    for task_id in task_ids:
        worker.run(task_id)

    attentive.find(completed)
    reader, last = unresponsive.getresponse(), {}
    while len(last) < 40 or any(status != "completed" for status in last.values()):
        line = reader.readline()
        if line.startswith(b"data: ") and changed(frame := json.loads(line[6:])):
            last[frame["params"]["taskId"]] = frame["params"]["status"]
    unresponsive.close()
