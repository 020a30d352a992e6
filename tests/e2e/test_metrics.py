"""`/metrics` over HTTP, of a front end, of workers in each pool, and of beat: known work, exact numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

import pytest
from pytest_celery import CeleryTestWorker

from tests.e2e.roles import FrontEnd, Process, ready
from tests.kit.metrics import Scrape, metrics_port, page, scrape
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, WireClient
from tests.kit.workers import ProcessContainer, worker_node

APP, SERVICE = "tests.kit.worker_app", "Worker tests"
KEY = "a-key-for-prometheus-7d1"
FINAL = ("completed", "failed", "cancelled")


class Service:
    """A front end, and the Redis that it shares with workers."""

    def __init__(self, redis: RedisServer, web: FrontEnd, port: int) -> None:
        self.redis, self.web, self.port = redis, web, port

    def scrape(self) -> Scrape:
        return scrape(self.port, KEY)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    redis, port = RedisServer(), metrics_port()
    measured = {"TASKS_METRICS_PORT": str(port), "TASKS_METRICS_KEY": KEY}
    web = FrontEnd(redis.url, tmp_path_factory.mktemp("web"), APP, **measured)
    try:
        ready(web, "/readyz")
        yield Service(redis, web, port)
    finally:
        web.teardown()
        redis.close()


def worker(service: Service, pool: str, port: int) -> CeleryTestWorker:
    node = worker_node(service.redis.url, app=APP, pool=pool, TASKS_METRICS_PORT=str(port - 1))
    assert node.ready(), node.logs()
    return node


def of_tools(read: Scrape, name: str) -> dict[str, float]:
    return {tool: number for tool, number in read.by(name, "tool").items() if tool != "far_away"}


def less(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {
        name: number - before.get(name, 0) for name, number in after.items() if number != before.get(name)
    }


def ended(client: WireClient, task_id: str) -> str:
    return str(wait_until(lambda: (status := client.get(task_id)["status"]) in FINAL and status))


def do_known_work(port: int, *, dies: bool) -> None:
    """Three sums, an error of a tool, one of the protocol, a retry, a cancellation, the loss of a child."""
    with WireClient(port, capabilities=WITH_TASKS) as client:
        calls: list[tuple[str, dict[str, Any]]] = [
            *(("add", {"x": n, "y": 1}) for n in range(3)),
            ("refuse", {}),
            ("protest", {}),
            ("flaky", {"succeed_at": 2}),
            *([("die_once", {})] if dies else []),
        ]
        for task in [client.task(tool, arguments) for tool, arguments in calls]:
            ended(client, task)
        running = client.task("loop", {})
        wait_until(lambda: client.get(running).get("statusMessage", "").startswith("pid "))
        client.request("tasks/cancel", {"taskId": running})
        assert ended(client, running) == "cancelled"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_known_work_gives_exact_numbers_in_every_pool(service: Service, pool: str) -> None:
    before, dies, port = service.scrape(), pool == "prefork", metrics_port() + 1
    node = worker(service, pool, port)
    try:
        if pool == "solo":  # it cancels nothing while it runs: its main thread is the tool's
            with WireClient(service.web.port, capabilities=WITH_TASKS) as client:
                for tool, arguments in (("add", {"x": 1, "y": 2}), ("flaky", {"succeed_at": 2})):
                    ended(client, client.task(tool, arguments))
            created = {"add": 1.0, "flaky": 1.0}
            completed, claims = created, {"add": 1.0, "flaky": 2.0}
            errors: dict[str, float] = {}
        else:
            do_known_work(service.web.port, dies=dies)
            lost = {"die_once": 1.0} if dies else {}
            created = {"add": 3.0, "refuse": 1.0, "protest": 1.0, "flaky": 1.0, "loop": 1.0, **lost}
            completed = {"add": 3.0, "flaky": 1.0, **lost}
            errors = {"refuse": 1.0}
            claims = {**created, "flaky": 2.0, **({"die_once": 2.0} if dies else {})}
        wanted = {"completed": sum(completed.values()), "tool_error": sum(errors.values())}
        wanted = {outcome: number for outcome, number in wanted.items() if number}
        failed = {"protest": 1.0} if errors else {}

        def is_counted() -> bool:
            return of_tools(scrape(port), "tasks_service_task_running_seconds_count") == {
                tool: number for tool, number in claims.items() if tool != "loop"
            }

        wait_until(is_counted, lambda: page(port))
        read, of_front_end = scrape(port), service.scrape()
    finally:
        node.teardown()
    outcomes = dict(read.by("tasks_service_tasks_finished_total", "outcome"))
    assert outcomes == {**wanted, **({"failed": 1.0} if failed else {})}
    assert of_tools(read, "tasks_service_tasks_finished_total") == {**completed, **errors, **failed}
    assert of_tools(read, "tasks_service_tasks_failed_total") == failed
    reasons = read.by("tasks_service_tasks_failed_total", "reason")
    assert reasons == ({"author": 1.0} if failed else {})
    assert of_tools(read, "tasks_service_task_retries_total") == {"flaky": 1.0}
    assert of_tools(read, "tasks_service_task_waiting_seconds_count") == claims
    assert of_tools(read, "tasks_service_task_duration_seconds_count") == {**completed, **errors, **failed}
    assert read.by("tasks_service_leases_lost_total", "reason") == ({"child": 1.0} if dies else {})
    assert of_tools(read, "tasks_service_tasks_created_total") == {}
    assert (read.value("tasks_service_redis_round_trip_seconds_count") or 0) > sum(claims.values())
    assert read.value("tasks_service_info", role="worker") == 1

    name = "tasks_service_tasks_created_total"
    assert less(of_tools(of_front_end, name), of_tools(before, name)) == created
    name = "tasks_service_tasks_finished_total"
    cancelled = {"cancelled": 1.0} if errors else {}
    assert less(dict(of_front_end.by(name, "outcome")), dict(before.by(name, "outcome"))) == cancelled


def test_a_front_end_says_how_much_the_store_holds_and_what_waits_for_longest(service: Service) -> None:
    with WireClient(service.web.port, capabilities=WITH_TASKS) as client:
        for _ in range(2):
            client.task("far_away", {})

    def pending() -> Any:
        read = service.scrape()  # of the store, as of some seconds ago
        return read.value("tasks_service_pending_tasks", queue="elsewhere") == 2 and read

    read = wait_until(pending)
    assert read.value("tasks_service_tasks", phase="pending") == 2
    assert read.value("tasks_service_tasks", phase="running") == 0
    assert read.value("tasks_service_tasks", phase="parked") == 0
    assert read.value("tasks_service_store_up") == 1
    assert read.value("tasks_service_info", role="front end") == 1
    wait_until(
        lambda: (service.scrape().value("tasks_service_oldest_pending_seconds", queue="elsewhere") or 0) > 1
    )


def test_refusals_are_counted_by_reason(service: Service) -> None:
    before = service.scrape().by("tasks_service_requests_refused_total", "reason")
    with WireClient(service.web.port, capabilities=WITH_TASKS) as client:
        assert client.call("add", {"x": "no number"}).result["isError"]
        assert client.call("no such tool", {}).error
        assert client.request("no/method", {}).error
        assert client.request("tasks/get", {"taskId": "none"}).error
        assert client.post(b"{", client.headers("tools/list", {}, Host="elsewhere.example")).status == 421
    after = service.scrape().by("tasks_service_requests_refused_total", "reason")
    assert less(dict(after), dict(before)) == {"invalid": 4.0, "forbidden": 1.0}


def test_an_error_that_a_tool_has_ended_with_is_no_refusal_whatever_its_author_says(
    service: Service,
) -> None:
    before = service.scrape().by("tasks_service_requests_refused_total", "reason")
    node = worker_node(service.redis.url, app=APP, pool="solo")
    try:
        with WireClient(service.web.port, capabilities=WITHOUT_TASKS) as client:
            assert client.call("look_refused", {}).error["data"]["setting"] == "mine"
    finally:
        node.teardown()
    assert service.scrape().by("tasks_service_requests_refused_total", "reason") == before


def test_metrics_are_read_with_the_key_alone_and_at_their_own_address(service: Service) -> None:
    for key in (None, "another-key", KEY + "x"):
        with pytest.raises(HTTPError, match="401"):
            page(service.port, key)
    with WireClient(service.web.port) as client:
        assert client.probe("/metrics").status == 404


def test_beat_counts_what_it_asks_for(service: Service) -> None:
    port = metrics_port() + 2
    command = ["celery", "-A", APP, "beat", "--scheduler", "celery.beat:Scheduler", "--loglevel", "INFO"]
    beat: ProcessContainer = Process(service.redis.url, "beat", command, TASKS_METRICS_PORT=str(port - 2))
    try:
        wait_until(lambda: "Metrics are served" in beat.logs() or beat.status == "exited", beat.logs)
        name = "tasks_service_beat_requests_total"
        kinds = ("expire-finished-tasks", "reap-stale-tasks", "resend-lost-messages", "audit-records")
        assert all(scrape(port).value(name, kind=kind) is not None for kind in kinds)
        wait_until(lambda: scrape(port).value(name, kind="reap-stale-tasks"), beat.logs)
    finally:
        beat.teardown()
