"""What `doctor` says of a set-up, without asking anybody."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from celery import Celery

from tasks_service import TaskService
from tasks_service.cli.doctor import (
    Examination,
    check_beat,
    check_encryption,
    check_memory,
    check_secrets,
    check_settings,
    check_signatures,
)
from tasks_service.domain.limits import GIB
from tasks_service.settings import Settings
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.maintenance.schedule import REAP
from tests.kit.secrets import secrets_problems

LOCAL = "redis://127.0.0.1:1/0"


def patient(celery: Celery | None = None, **options: object) -> Examination:
    settings = Settings(**{"redis_url": LOCAL, **options})
    return Examination(TaskService("Test", celery=celery, settings=settings), settings, RedisTaskStore(LOCAL))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"redis_url": "redis://redis.example/0"}, ["TASKS_REDIS_URL"]),
        ({"broker_url": "amqp://rabbit.example//"}, ["TASKS_BROKER_URL"]),
        ({"redis_url": "redis://redis.example/0", "private_network": True}, []),
        ({"redis_url": "rediss://redis.example/0", "broker_url": "amqps://rabbit.example//"}, []),
        ({}, []),
    ],
)
def test_it_warns_of_connections_that_others_can_read(options: dict[str, object], named: list[str]) -> None:
    found = list(check_encryption(patient(**options)))
    assert [finding.what.split()[0] for finding in found] == named


def test_it_says_what_rabbitmqs_consumer_timeout_does_to_an_application_of_ones_own() -> None:
    found = list(check_settings(patient(Celery("shop"))))
    assert any("consumer_timeout" in finding.what for finding in found)
    assert list(check_settings(patient())) == []


def test_it_says_where_redis_has_no_maxmemory_and_where_one_owner_may_fill_it(redis_url: str) -> None:
    with (
        closing(RedisTaskStore(redis_url, deadline=60.0)) as store,
        redis.Redis.from_url(redis_url) as client,
    ):

        def said(maxmemory: int) -> list[str]:
            settings = Settings(_env_file=None, redis_url=redis_url)
            examination = Examination(TaskService("Test", settings=settings), settings, store)
            client.config_set("maxmemory", maxmemory)
            try:
                return [finding.what for finding in check_memory(examination)]
            finally:
                client.config_set("maxmemory", 0)

        (unlimited,) = said(0)
        assert "Redis has no maxmemory" in unlimited
        (owner,) = said(GIB)
        assert "TASKS_MAX_STORED_PER_OWNER is 1073741824" in owner
        assert said(2 * GIB) == []


def test_it_says_that_the_secret_here_is_not_that_of_the_front_ends(redis_url: str, tmp_path: Path) -> None:
    assert secrets_problems(redis_url, "the-secret-of-the-front-ends") == []

    with closing(RedisTaskStore(redis_url, deadline=60.0)) as store:

        def said(**options: str) -> list[str]:
            settings = Settings(_env_file=None, redis_url=redis_url, data_dir=tmp_path, **options)
            examination = Examination(TaskService("Test", settings=settings), settings, store)
            return [finding.what for finding in check_secrets(examination)]

        assert said(secret="the-secret-of-the-front-ends") == []
        (what,) = said(secret="the-secret-of-somebody-else")
        assert "another secret" in what
        assert said() == [], "where there is no secret, there is nothing to compare"
    assert list(tmp_path.iterdir()) == [], "and none is made"


def test_it_warns_of_messages_that_anybody_can_write_and_of_those_that_run_code() -> None:
    def said(celery: Celery | None = None, **options: object) -> list[str]:
        return [finding.what for finding in check_signatures(patient(celery, **options))]

    shop = Celery("shop")
    shop.conf.accept_content = ["pickle", "json"]
    secret = {"message_secret": "the-secret-of-these-messages"}
    assert said(**secret) == []
    (unsigned,) = said()
    assert "Messages are not signed" in unsigned
    (accepted,) = said(**secret, message_signing="accept")
    assert "Messages that are not signed run as well" in accepted
    (pickled,) = said(shop, **secret)
    assert "The Celery app accepts pickle" in pickled


@pytest.mark.parametrize(("ages_ms", "warned"), [({REAP: 5_000}, False), ({REAP: 5_000_000}, True)])
def test_a_shop_whose_schedule_lacks_ours_is_not_warned_while_another_beat_does_it(
    ages_ms: dict[str, int], warned: bool
) -> None:
    examination = patient(Celery("shop"))
    examination.store = SimpleNamespace(beat_ages_ms=lambda: ages_ms)
    found = list(check_beat(examination))
    assert any("beat_schedule lacks" in finding.what for finding in found) is warned
