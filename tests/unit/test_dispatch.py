"""From a recorded task to a message."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from typing import Any

import pytest
from celery import Celery

from tasks_service.addresses.broker import broker_of, redis_server
from tasks_service.broker.app import create_app
from tasks_service.broker.delivery import consumed_delivery
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.broker.message import celery_id
from tasks_service.domain.errors import ConfigurationError
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import ClientCapability, Owner, Policy, Task, TaskStatus

URL = "redis://127.0.0.1:6379/0"


def a_task(**changes: Any) -> Task:
    known: dict[str, Any] = {
        "task_id": "00secretsecretsecret",
        "owner": Owner("ann"),
        "tool": "draw",
        "queue": "gpu",
        "policy": Policy(),
        "status": TaskStatus.WORKING,
        "revision": 0,
        "created_ms": 1,
        "updated_ms": 1,
        "due_ms": 1,
        "deadline_ms": 9,
        "expires_ms": 9,
        "dispatched_ms": 7,
        "capabilities": frozenset(ClientCapability),
    }
    return Task(**{**known, **changes})


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher(create_app("acme", broker_url=URL, key_prefix="ts"), redis_url=URL)


def test_a_message_holds_the_tasks_reference_and_nothing_else(dispatcher: Dispatcher) -> None:
    (push,) = dispatcher.pushes(a_task(claims=2), 0)
    message = json.loads(push.payload)
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == (
        [],
        {"task": task_hash("00secretsecretsecret"), "claims": 2, "dispatched_ms": 7},
    )
    assert message["headers"]["task"] == "draw"
    assert b"sampling" not in push.payload
    assert b"ann" not in push.payload


def test_what_flower_shows_does_not_tell_the_task_id(dispatcher: Dispatcher) -> None:
    (push,) = dispatcher.pushes(a_task(), 0)
    headers = json.loads(push.payload)["headers"]
    assert headers["id"] == celery_id(a_task()) == f"{task_hash('00secretsecretsecret')}.1"
    assert "00secretsecretsecret" not in json.dumps(headers)


def test_a_message_goes_to_the_queues_own_key(dispatcher: Dispatcher) -> None:
    (push,) = dispatcher.pushes(a_task(), 0)
    assert push.key == "ts:mq:gpu"


def test_threads_build_messages_at_once(dispatcher: Dispatcher) -> None:
    built: list[str] = []

    def build(number: int) -> None:
        for _ in range(50):
            (push,) = dispatcher.pushes(a_task(task_id=f"00{number}"), 0)
            body = json.loads(base64.b64decode(json.loads(push.payload)["body"]))
            assert body[1]["task"] == task_hash(f"00{number}")
        built.append("ok")

    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["ok"] * 4


@pytest.mark.parametrize(
    "urls", [[URL, "redis://other/3"], (URL, "redis://other/3"), f"{URL};redis://other/3"]
)
def test_several_brokers_of_a_shops_app_are_told_to_kombu_in_their_order(urls: Any) -> None:
    shop = Celery("shop", broker=urls, set_as_current=False)
    dispatcher = Dispatcher(shop, redis_url=URL)
    assert dispatcher.broker_url == f"{URL};redis://other/3"
    assert not dispatcher.in_store  # which of them is the broker is not known
    assert consumed_delivery(Celery("shop", broker=["redis://a/3", "redis://b/3"])).virtual_host == "3"


def test_a_broker_that_is_down_costs_a_commit_nothing() -> None:
    app = create_app("acme", broker_url="redis://127.0.0.1:1/0", key_prefix="ts")
    dispatcher = Dispatcher(app, redis_url=URL, backlog=2)
    assert dispatcher.pushes(a_task(), 0) == ()
    for _ in range(50):
        dispatcher.committed(a_task())
    dispatcher.close()


def test_a_broker_that_is_down_does_not_say_how_long_a_queue_is() -> None:
    app = create_app("acme", broker_url="redis://127.0.0.1:1/0", key_prefix="ts")
    assert Dispatcher(app, redis_url=URL).queue_length("gpu") is None


def test_the_length_of_a_queue_is_what_waits_in_it(redis_url: str) -> None:
    app = create_app("acme", broker_url=redis_url, key_prefix="ts")
    dispatcher = Dispatcher(app, redis_url="redis://elsewhere/0")
    assert dispatcher.queue_length("gpu") == 0
    for _ in range(3):
        dispatcher.committed(a_task())
    published = threading.Event()
    for _ in range(500):
        if dispatcher.queue_length("gpu") == 3:
            published.set()
            break
        published.wait(0.01)
    assert published.is_set()
    dispatcher.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("redis://localhost", "redis://127.0.0.1:6379/0", True),
        ("redis://:pw@h/1", "redis://h:6379/1", True),
        ("redis://ann:pw@h/1", "redis://h/1", False),
        ("redis://h/0", "redis://h/1", False),
        ("redis://h/0", "rediss://h/0", False),
        ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2", True),
        ("unix:///run/r.sock", "unix:///run/s.sock", False),
        ("sentinel://h:26379/0", "sentinel://h:26379/0", False),
        ("redis://h/0", "amqp://h//", False),
    ],
)
def test_it_is_known_whether_two_urls_mean_one_database(one: str, other: str, same: bool) -> None:
    first = redis_server(one)
    assert (first is not None and first == redis_server(other)) is same


SENTINELS = "redis+sentinel://ann:p%40w@one:26380,two/3?service=tasks"


def test_sentinels_are_told_to_celery_as_kombu_writes_them() -> None:
    app = create_app("acme", broker_url=f"{SENTINELS}&sentinel_password=pw", key_prefix="ts")
    assert app.conf.broker_url == "sentinel://ann:p%40w@one:26380/3;sentinel://ann:p%40w@two:26379/3"
    options = app.conf.broker_transport_options
    assert options["master_name"] == "tasks"
    assert options["sentinel_kwargs"]["password"] == "pw"
    assert not app.conf.broker_use_ssl


def test_encrypted_sentinels_are_encrypted_for_celery_too() -> None:
    url = "rediss+sentinel://one/0?service=tasks&ssl_ca_certs=/etc/ca.pem"
    app = create_app("acme", broker_url=url, key_prefix="ts")
    tls = {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_certs": "/etc/ca.pem",
    }
    assert app.conf.broker_use_ssl == tls
    assert tls.items() <= app.conf.broker_transport_options["sentinel_kwargs"].items()
    assert Dispatcher(app, redis_url=url).in_store


@pytest.mark.parametrize(
    ("store", "same"),
    [
        (SENTINELS, True),
        ("redis+sentinel://ann:p%40w@two:26379,one:26380/3?service=tasks", True),
        (SENTINELS.replace("service=tasks", "service=other"), False),
        (SENTINELS.replace("/3?", "/4?"), False),
        (SENTINELS.replace("two", "three"), False),
        (SENTINELS.replace("redis+", "rediss+"), False),
        ("redis://one:26380/3", False),
    ],
)
def test_messages_go_with_the_record_where_the_sentinels_master_is_store_and_broker(
    store: str, same: bool
) -> None:
    app = create_app("acme", broker_url=SENTINELS, key_prefix="ts")
    assert Dispatcher(app, redis_url=store).in_store is same
    assert Dispatcher(Celery("shop"), redis_url=store, broker_url=SENTINELS).in_store is same


def test_a_cluster_is_refused_as_a_broker_with_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="Set TASKS_BROKER_URL"):
        create_app("acme", broker_url="redis+cluster://h", key_prefix="ts")


def test_on_a_cluster_messages_go_to_the_broker_after_the_record() -> None:
    app = create_app("acme", broker_url=URL, key_prefix="ts")
    assert not Dispatcher(app, redis_url="redis+cluster://127.0.0.1:6379").in_store


@pytest.mark.parametrize("url", ["redis://h:1/2", "rediss://h/0", "unix:///a/b.sock?db=3", "unix:///a.sock"])
def test_the_brokers_url_means_the_stores_redis(url: str) -> None:
    assert redis_server(broker_of(url).url) == redis_server(url)
