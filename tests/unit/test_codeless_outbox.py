"""Messages of a front end that has never seen the app whose workers take them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from tasks_service.broker.codeless import CodelessOutbox
from tasks_service.broker.delivery import delivery_of, disagreement
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.settings import Settings
from tasks_service.store.registry import Delivery

from .test_dispatch import URL, a_task


def shop_app(**options: Any) -> Celery:
    """An app as a shop may have it: with queues, a serializer and priorities of its own."""
    app = Celery("shop", broker=URL)
    app.conf.update(
        task_serializer="pickle",
        task_default_queue="shop",
        task_default_priority=5,
        task_queues=[Queue("gpu", Exchange("shop", type="topic"), routing_key="gpu.#")],
        broker_transport_options=options,
    )
    return app


def outbox(**changes: Any) -> CodelessOutbox:
    return CodelessOutbox(Settings(_env_file=None, redis_url=URL, **changes))


def parsed(payload: bytes) -> Any:
    """A message without what differs each time, and without what says who sent it."""
    message = json.loads(payload)
    del message["properties"]["delivery_tag"], message["properties"]["reply_to"]
    del message["headers"]["origin"]
    return message


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_a_message_is_the_one_that_the_shops_own_front_end_would_send(prefix: str) -> None:
    app = shop_app(**({"global_keyprefix": prefix} if prefix else {}))
    (theirs,) = Dispatcher(app, redis_url=URL).pushes(a_task(), 0)
    codeless = outbox()

    assert codeless.refusal(delivery_of(app, URL), is_first=True) is None

    (ours,) = codeless.pushes(a_task(), 0)
    assert ours.key == f"{prefix}gpu"
    assert ours.key == theirs.key
    assert parsed(ours.payload) == parsed(theirs.payload)


def test_messages_go_to_the_queues_of_an_app_of_ours_until_another_prefix_is_announced() -> None:
    assert [push.key for push in outbox().pushes(a_task(), 0)] == ["ts:mq:gpu"]


def test_messages_of_another_broker_are_no_part_of_the_records_write() -> None:
    elsewhere = outbox(broker_url="amqp://guest@127.0.0.1:1/shop")
    assert elsewhere.delivery == Delivery("amqp", "shop", "")
    assert elsewhere.pushes(a_task(), 0) == ()


@pytest.mark.parametrize(
    ("theirs", "fits"),
    [
        ("redis://worker:secret@cache.internal:6379/0", True),
        ("redis+socket:///run/redis.sock?virtual_host=0", True),
        ("redis://127.0.0.1:6379/1", False),
        ("amqp://guest@127.0.0.1//", False),
    ],
)
def test_a_broker_of_another_kind_or_database_is_refused_with_a_sentence(theirs: str, fits: bool) -> None:
    ours = outbox().delivery

    problem = disagreement(delivery_of(Celery("shop"), theirs), ours)

    assert (problem is None) is fits
    if problem is not None:
        assert "this front end sends them to database 0 of a Redis. Set TASKS_BROKER_URL" in problem


@pytest.mark.parametrize(
    ("url", "virtual_host"), [("amqp://rabbit", "/"), ("amqps://rabbit//", "/"), ("pyamqp://rabbit/a", "a")]
)
def test_virtual_hosts_are_told_apart_as_kombu_does(url: str, virtual_host: str) -> None:
    assert delivery_of(Celery("shop"), url) == Delivery("amqp", virtual_host, "")
