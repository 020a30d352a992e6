"""Flower as we start it, beside whoever may publish events: it goes on, and shows nothing that is secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.kit.hostile import EVENT, embedded, published
from tests.kit.waiting import wait_until
from tests.kit.workers import worker_node

from .roles import SECRET, Flower, GuardedRedis, password, ready

CHANNELS = {
    "worker.heartbeat": "worker-heartbeat",
    "worker.online": "worker-online",
    "task.received": "task-received",
}
"""Where events come in, and the kind of a sound one there."""

ODD_NAMES = (
    "",
    "no-at-sign",
    "<script>alert('pwned')</script>@elsewhere",
    '"><img src=x onerror=alert(1)>@elsewhere',
    "../../../etc/passwd@elsewhere",
    "{{ handler.settings }}@elsewhere",
    "celery@\u202eerehwesle",
    "line\r\nbreak: yes@elsewhere",
    "long@" + "x" * 70_000,
)
ODD_WORKER = '<b>odd</b> & "quoted" {{ 7 * 7 }}'
API_KEY = "a-key-of-a-client-0123456789"
PAGES = ("/", "/workers", "/tasks", "/broker", "/metrics", "/api/workers", "/api/tasks", "/api/task/types")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    server = GuardedRedis(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def flower(redis: GuardedRedis) -> Iterator[Flower]:
    settings = {"TASKS_SECRET": SECRET, "TASKS_API_KEYS": f"alice:{API_KEY}"}
    flower = Flower(redis.url_of("flower"), **settings)
    ready(flower, "/healthcheck")
    yield flower
    flower.teardown()


def event(**changes: Any) -> bytes:
    """An event as a worker publishes it."""
    exchange = {"exchange": "celeryev", "routing_key": "worker.heartbeat"}
    properties = {"body_encoding": "base64", "delivery_tag": "x", "delivery_info": exchange}
    envelope = {"content-type": "application/json", "content-encoding": "utf-8", "headers": {}}
    return json.dumps(embedded({**envelope, "properties": properties}, {**EVENT, **changes})).encode()


def publish(redis: GuardedRedis, routing_key: str, raw: bytes) -> int:
    with redis.client() as admin:
        return int(admin.publish(f"ts:mq:/0.celeryev/{routing_key}", raw))


def hears(redis: GuardedRedis, flower: Flower, task: str) -> bool:
    """Whether Flower shows a task whose event is published now."""
    told = event(type="task-received", uuid=task, name="sound", hostname="celery@sound", args="()")
    publish(redis, "task.received", told)
    return f'"{task}"' in flower.shows("/api/tasks?limit=1000000")


def shown(flower: Flower, page: str) -> tuple[int, str]:
    """The status and text of a page, whatever it is."""
    try:
        with urlopen(f"http://127.0.0.1:{flower.port}{page}", timeout=30) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_flower_goes_on_after_events_of_any_shape_and_misses_none_that_is_sound(
    redis: GuardedRedis, flower: Flower
) -> None:
    wait_until(lambda: hears(redis, flower, "before"), flower.logs)
    for number, (routing_key, kind) in enumerate(CHANNELS.items()):
        for raw in published("celeryev", routing_key, {**EVENT, "type": kind}):
            publish(redis, routing_key, raw)
        # At once: whoever lost its connection over one event would miss this one.
        publish(redis, "task.received", event(type="task-received", uuid=f"between {number}", name="sound"))
    for number in range(len(CHANNELS)):
        wait_until(
            lambda n=number: f'"between {n}"' in flower.shows("/api/tasks?limit=1000000"),  # type: ignore[misc]
            flower.logs,
        )
    assert flower.status == "running"
    pages = {page: shown(flower, page)[0] for page in ("/healthcheck", *PAGES)}
    assert set(pages.values()) == {200}, (pages, flower.logs()[-9_000:])
    assert "Failed to capture events" not in flower.logs()


def test_a_worker_of_another_service_with_an_odd_name_is_text_on_every_page_and_no_secret_is(
    redis: GuardedRedis, flower: Flower, tmp_path: Path
) -> None:
    node = worker_node(
        redis.url_of("worker"),
        app="tests.e2e.submitting_app",
        pool="solo",
        name=ODD_WORKER,
        options=("-E",),
        TASKS_SECRET=SECRET,
    )
    try:
        assert node.ready(), node.logs()
        wait_until(lambda: hears(redis, flower, "before names"), flower.logs)
        for name in ODD_NAMES:
            publish(redis, "worker.online", event(type="worker-online", hostname=name))
            told = event(type="task-received", hostname=name, uuid=f"of {name[:90]}", name=name, args=name)
            publish(redis, "task.received", told)
        wait_until(lambda: hears(redis, flower, "after names"), flower.logs)
        pages = {page: shown(flower, page) for page in PAGES}
        of_workers = [f"/worker/{quote(name, safe='')}" for name in (f"{ODD_WORKER}@test", *ODD_NAMES[1:8])]
        pages |= {page: shown(flower, page) for page in of_workers}
    finally:
        node.teardown()

    assert {page: status for page, (status, _) in pages.items() if page in PAGES and status != 200} == {}
    assert "odd" in pages["/workers"][1]
    secrets = [SECRET, API_KEY, *(password(role) for role in ("flower", "worker"))]
    for page, (_, text) in pages.items():
        assert not [secret for secret in secrets if secret in text], page
        if not page.startswith(("/api", "/metrics")):
            assert "<script>alert" not in text and "<img src=x" not in text and "<b>odd" not in text, page
    assert not [secret for secret in secrets if secret in flower.logs()]
    assert flower.status == "running"
