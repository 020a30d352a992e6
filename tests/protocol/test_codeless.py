"""A front end without code: it serves what workers announce, over HTTP, to clients of both eras."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks_service.authoring.tool import build_tool
from tasks_service.domain.task import Policy
from tasks_service.domain.tools import ToolDefinition
from tasks_service.frontend.timings import Timings
from tasks_service.store.registry import Delivery
from tests.kit.announcing import Announcer, announcing
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, serving, serving_codeless, settings
from tests.kit.sessions import SessionClient, Stream, is_request
from tests.kit.waiting import quickest, wait_until
from tests.kit.wire import WireClient

Measured = Callable[[str, str], None]

COMPANIONS = ["task_answer", "task_cancel", "task_result", "task_status"]
CHANGED = "notifications/tools/list_changed"
NO_WORKER = "No worker has this tool at present: a call waits until one has it again, for 1 day at most."


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def add(left: int, right: int = 1) -> int:
    """Add two numbers."""
    return left + right


@pytest.fixture
def port(redis_url: str, tmp_path: Path, timings: Timings) -> Iterator[int]:
    with serving_codeless(settings(redis_url, tmp_path), timings=timings) as port:
        yield port


@pytest.fixture
def announcer(redis_url: str) -> Iterator[Announcer]:
    with announcing(redis_url) as announcer:
        yield announcer


@pytest.fixture
def at(port: int) -> Iterator[Callable[[str], WireClient]]:
    """Clients of 2026-07-28, by the path of the service that they call."""
    clients: list[WireClient] = []

    def client_at(path: str) -> WireClient:
        clients.append(WireClient(port, path=path))
        return clients[-1]

    yield client_at
    for client in clients:
        client.close()


def listed(client: WireClient) -> dict[str, Any]:
    """The tools of a list, but for the front end's own."""
    tools = client.request("tools/list").result["tools"]
    return {tool["name"]: tool for tool in tools if tool["name"] not in COMPANIONS}


def until_listed(client: WireClient, *names: str) -> None:
    def as_wanted() -> bool:
        reply = client.request("tools/list")
        return reply.status == 200 and list(listed(client)) == list(names)

    wait_until(as_wanted, f"{names} are listed")


def listening(client: WireClient) -> Stream:
    """A stream that tells of changed tools, once it is acknowledged."""
    params = {"notifications": {"toolsListChanged": True}}
    body = json.dumps(client.message("subscriptions/listen", params)).encode()
    stream = Stream(client.port, "POST", body, client.headers("subscriptions/listen", params), client.path)
    stream.find(is_request("notifications/subscriptions/acknowledged"))
    return stream


# --- tools come, change and go --------------------------------------------------------------------------


def test_before_any_worker_there_is_a_server_without_tools_of_a_service(client: WireClient) -> None:
    assert [tool["name"] for tool in client.request("tools/list").result["tools"]] == COMPANIONS
    discovered = client.request("server/discover").result
    assert discovered["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "Tasks Service"


def test_clients_of_both_eras_are_told_when_tools_come(
    client: WireClient, port: int, announcer: Announcer
) -> None:
    with SessionClient([port]) as session:
        assert session.initialize()["capabilities"]["tools"] == {"listChanged": True}
        stream, subscription = session.listen(), listening(client)

        announcer.start("Shop", greet)

        for told in (stream, subscription):
            told.find(is_request(CHANGED))
        assert [tool["name"] for tool in session.result("tools/list")["tools"]] == ["greet", *COMPANIONS]
        subscription.close()
    assert list(listed(client)) == ["greet"]


def test_a_tool_can_be_called_soon_after_its_worker_is_announced(
    client: WireClient, announcer: Announcer, measured: Measured
) -> None:
    services = (f"Shop {number}" for number in range(1000))

    def takes() -> float:
        """Seconds from the first word of a service that was not known until it answers at its path."""
        service = next(services)
        began = time.monotonic()
        worker = announcer.start(service, build_tool(greet, name=f"greet_{service[5:]}"))
        client.path = f"/shop-{service[5:]}/mcp"
        wait_until(lambda: client.call(f"greet_{service[5:]}", {"name": "Ada"}).status == 200, "it answers")
        seconds = time.monotonic() - began
        announcer.stop(worker)
        return seconds

    seconds = quickest(takes, 1.5)
    measured("codeless", f"a tool of a new service is callable {seconds:.2f} s after it is announced")
    assert seconds < 3


def test_a_call_is_recorded_and_sent_to_the_queue_that_was_announced(
    client: WireClient, announcer: Announcer, worker: Worker, redis_url: str
) -> None:
    announcer.start("Shop", greet, delivery=Delivery("redis", redis_url.rpartition("/")[2], "shop:"))
    until_listed(client, "greet")

    task_id = client.task("greet", {"name": "Ada"})

    task = worker.task(task_id)
    assert (task.service, task.tool, task.queue) == ("Shop", "greet", "tasks")
    with redis.Redis.from_url(redis_url) as broker:
        (message,) = broker.lrange("shop:tasks", 0, -1)
    assert json.loads(message)["headers"]["task"] == "greet"
    worker.run(task_id)
    assert client.get(task_id)["result"]["content"] == [{"type": "text", "text": "Hello, Ada!"}]


def test_arguments_are_checked_by_the_announced_schema_and_leave_no_trace(
    client: WireClient, announcer: Announcer, worker: Worker
) -> None:
    announcer.start("Shop", greet, add)
    until_listed(client, "add", "greet")

    refused = client.call("add", {"left": "many"}).result

    assert refused["isError"]
    assert "left" in refused["content"][0]["text"]
    assert worker.pending() == []


def test_the_definition_of_the_newest_release_is_listed_and_the_log_says_who_has_another(
    client: WireClient, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    def named(description: str) -> ToolDefinition:
        return build_tool(greet, description=description).definition

    announcer.start("Shop", named("Older."), node="celery@old", version="1.9")
    until_listed(client, "greet")
    announcer.start("Shop", named("Newer."), node="celery@new", version="1.10")
    wait_until(lambda: listed(client)["greet"]["description"] == "Newer.", "the newer release wins")

    announcer.start("Shop", named("Older."), node="celery@late", version="1.9")

    wait_until(lambda: "celery@late, celery@old" in caplog.text, "the log names both")
    assert listed(client)["greet"]["description"] == "Newer."
    info = client.request("server/discover").result["_meta"]["io.modelcontextprotocol/serverInfo"]
    assert (info["name"], info["version"]) == ("Shop", "1.10")


def test_what_the_tools_are_good_for_is_told_as_the_workers_announce_it(
    client: WireClient, announcer: Announcer
) -> None:
    announcer.start("Shop", greet, instructions="Greets customers.")
    until_listed(client, "greet")
    assert client.request("server/discover").result["instructions"] == "Greets customers."


def test_a_tool_that_has_lost_its_last_worker_stays_listed_and_says_so_until_it_is_back(
    client: WireClient, announcer: Announcer
) -> None:
    worker = announcer.start("Shop", greet, instructions="Greets.")
    until_listed(client, "greet")
    subscription = listening(client)

    announcer.stop(worker)

    subscription.find(is_request(CHANGED))
    assert listed(client)["greet"]["description"] == f"Say hello.\n\n{NO_WORKER}"
    assert client.request("server/discover").result["instructions"] == "Greets."
    waiting = client.get(client.task("greet", {"name": "Ada"}))
    assert (waiting["status"], waiting["statusMessage"]) == (
        "working",
        "Waits: no worker that has the tool 'greet' takes the queue 'tasks' now.",
    )
    announcer.start("Shop", greet)
    subscription.find(is_request(CHANGED))
    assert listed(client)["greet"]["description"] == "Say hello."
    subscription.close()


@pytest.mark.parametrize("timings", [Timings(heal=0.3)])
def test_a_tool_is_gone_when_no_call_could_find_a_worker_in_time(
    client: WireClient, announcer: Announcer
) -> None:
    policy = Policy(queue_timeout_ms=round(timedelta(seconds=1.5).total_seconds() * 1000))
    worker = announcer.start("Shop", build_tool(greet, policy=policy))
    until_listed(client, "greet")
    subscription = listening(client)

    announcer.stop(worker)

    for _ in ("it is lost", "it is gone"):
        subscription.find(is_request(CHANGED))
    until_listed(client)
    assert client.call("greet", {"name": "Ada"}).error["message"] == "Unknown tool: greet"
    subscription.close()


def test_a_tool_with_the_name_of_one_of_the_front_ends_own_is_not_offered(
    client: WireClient, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    announcer.start("Shop", build_tool(greet, name="task_status"), add, version="1.0")
    until_listed(client, "add")
    announcer.start("Shop", build_tool(greet, name="task_status"), add, greet, version="1.1")
    until_listed(client, "add", "greet")

    assert "Tools with the names of the front end's own are not offered: task_status" in caplog.text
    assert "no such task" in client.call("task_status", {"task_id": "00"}).result["content"][0]["text"]


def test_a_definition_that_no_client_could_read_hides_no_other_tool(
    client: WireClient, announcer: Announcer
) -> None:
    announcer.start("Shop", greet, ToolDefinition(name="broken", input_schema={"type": "array"}))
    until_listed(client, "greet")


def test_the_list_may_be_kept_for_less_long_than_that_of_an_app(
    client: WireClient, redis_url: str, tmp_path: Path
) -> None:
    kept = client.request("tools/list").result["ttlMs"]
    with serving(registry(greet), settings(redis_url, tmp_path)) as port, WireClient(port) as other:
        assert 0 < kept < other.request("tools/list").result["ttlMs"]


def test_a_thousand_tools_are_listed_within_fifty_milliseconds(
    client: WireClient, announcer: Announcer, measured: Measured
) -> None:
    announcer.start("Shop", *(build_tool(add, name=f"add_{number:04}") for number in range(1000)))
    wait_until(lambda: len(listed(client)) == 1000, "all are listed")

    def takes() -> float:
        began = time.monotonic()
        client.request("tools/list")
        return time.monotonic() - began

    seconds = quickest(takes, 0.01)
    measured("codeless", f"tools/list of 1,000 tools takes {seconds * 1000:.1f} ms")
    assert seconds < 0.05


# --- several services -----------------------------------------------------------------------------------


def test_each_of_several_services_has_a_path_and_the_common_one_says_so(
    at: Callable[[str], WireClient], announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    announcer.start("Acme Shop", greet)
    announcer.start("Office", add, node="celery@b", queues=frozenset({"tasks"}))
    shop, office = at("/acme-shop/mcp"), at("/office/mcp")
    until_listed(shop, "greet")
    until_listed(office, "add")

    for path in ("/mcp", "/mcp/"):
        refused = at(path).request("tools/list")
        assert (refused.status, "/<service>/mcp" in refused.error["message"]) == (404, True)
    assert at("/acme-shop/mcp/").request("tools/list").status == 200
    assert at("/nowhere/mcp").request("tools/list").status == 404
    discovered = shop.request("server/discover").result["_meta"]["io.modelcontextprotocol/serverInfo"]
    assert discovered["name"] == "Acme Shop"
    assert "Several services have workers: /mcp answers 404" in caplog.text


def test_the_common_path_serves_the_service_that_has_workers(
    at: Callable[[str], WireClient], announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old = announcer.start("Shop", greet)
    client = at("/mcp")
    until_listed(client, "greet")
    task_id = client.task("greet", {"name": "Ada"})

    announcer.stop(old)
    announcer.start("Shop, renamed", add)

    until_listed(client, "add")
    assert client.get(task_id)["status"] == "working", "what a renamed service left behind is still found"
    until_listed(at("/shop/mcp"), "greet")
    for service in ("Shop", "Shop, renamed"):
        assert caplog.text.count(f"The service '{service}' is served at /mcp, while no other has") == 1


def test_a_task_is_not_found_at_the_path_of_another_service(
    at: Callable[[str], WireClient], announcer: Announcer
) -> None:
    announcer.start("Shop", greet)
    announcer.start("Office", add, node="celery@b")
    shop, office = at("/shop/mcp"), at("/office/mcp")
    until_listed(shop, "greet")
    until_listed(office, "add")
    task_id = shop.task("greet", {"name": "Ada"})

    refused = [office.request(method, {"taskId": task_id}).error for method in ("tasks/get", "tasks/cancel")]
    unknown = office.request("tasks/get", {"taskId": "00" + "a" * 24}).error

    assert refused == [unknown, unknown]
    assert office.update(task_id, {}).error == unknown
    assert "no such task" in office.call("task_status", {"task_id": task_id}).result["content"][0]["text"]
    assert shop.get(task_id)["status"] == "working"


def test_a_session_belongs_to_the_service_that_it_began_with(
    at: Callable[[str], WireClient], announcer: Announcer
) -> None:
    announcer.start("Shop", greet)
    announcer.start("Office", add, node="celery@b")
    shop, office = at("/shop/mcp"), at("/office/mcp")
    until_listed(shop, "greet")
    until_listed(office, "add")
    with SessionClient([shop.port], path="/shop/mcp") as session:
        session.initialize()
        task_id = session.task("greet", {"name": "Ada"})
        assert [task["taskId"] for task in session.result("tasks/list")["tasks"]] == [task_id]

        session.path = "/office/mcp"
        assert session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).status == 404

        with SessionClient([shop.port], path="/office/mcp") as other:
            other.initialize()
            assert other.result("tasks/list")["tasks"] == []


def test_all_services_together_have_their_names_in_front_of_their_tools(
    redis_url: str, tmp_path: Path, announcer: Announcer, worker: Worker
) -> None:
    announcer.start("Acme Shop", build_tool(greet, queue="shop"), instructions="Greets.")
    announcer.start("Office", build_tool(greet, queue="office"), node="celery@b", instructions="Calls.")
    with (
        serving_codeless(settings(redis_url, tmp_path), together=True) as port,
        WireClient(port) as client,
        WireClient(port, path="/office/mcp") as office,
    ):
        until_listed(client, "acme_shop_greet", "office_greet")
        assert client.request("server/discover").result["instructions"] == (
            "Acme Shop: Greets.\n\nOffice: Calls."
        )

        task_id = client.task("office_greet", {"name": "Ada"})

        task = worker.task(task_id)
        assert (task.service, task.tool, task.queue) == ("Office", "greet", "office")
        assert (
            "'office_greet'" in client.call("task_status", {"task_id": task_id}).result["content"][0]["text"]
        )
        assert office.get(task_id)["status"] == "working"


# --- what is refused ------------------------------------------------------------------------------------


def test_a_service_whose_workers_have_another_broker_is_not_served_and_the_log_says_what_to_do(
    client: WireClient, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    announcer.start("Shop", greet, delivery=Delivery("amqp", "/"))

    wait_until(lambda: "The service 'Shop' is not served" in caplog.text, "the log says so")

    assert "Set TASKS_BROKER_URL of the front end" in caplog.text
    assert listed(client) == {}


def test_a_tool_that_workers_of_another_service_would_take_for_theirs_is_not_offered(
    at: Callable[[str], WireClient], announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    announcer.start("Shop", greet)
    until_listed(at("/shop/mcp"), "greet")

    announcer.start("Office", greet, add, node="celery@b")

    until_listed(at("/office/mcp"), "add")
    (said,) = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    assert said.startswith("The tool 'greet' of the service 'Office' is not offered: workers of 'Shop' take")
    assert list(listed(at("/shop/mcp"))) == ["greet"]
