"""What an author can say of a tool, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tasks_service import ConfigurationError, Settings, TaskService
from tasks_service.domain.task import HOUR, SECOND
from tasks_service.domain.tools import TaskSupport


@pytest.fixture
def service() -> TaskService:
    return TaskService("Acme", settings=Settings(redis_url=None))


def echo(text: str) -> str:
    """Say it again."""
    return text


def test_the_function_stays_as_it_is(service: TaskService) -> None:
    assert service.tool()(echo) is echo
    assert echo("hi") == "hi"


def test_options_become_the_tools_policy(service: TaskService) -> None:
    service.tool(
        timeout=timedelta(hours=2), max_attempts=5, lease=timedelta(seconds=30), queue="gpu", task="required"
    )(echo)
    tool = service.tools["echo"].definition
    assert (
        tool.policy.timeout_ms,
        tool.policy.max_attempts,
        tool.policy.lease_ms,
    ) == (
        2 * HOUR,
        5,
        30 * SECOND,
    )
    assert (tool.queue, tool.support) == ("gpu", TaskSupport.REQUIRED)


def test_a_tool_has_a_celery_task_of_its_name_on_a_declared_queue(service: TaskService) -> None:
    service.tool(queue="gpu")(echo)
    assert service.celery.tasks["echo"].acks_late
    assert {"gpu", "maintenance"} <= set(service.celery.amqp.queues)


def test_beat_of_our_own_app_asks_for_four_kinds_of_maintenance(service: TaskService) -> None:
    schedule = service.celery.conf.beat_schedule
    assert {name: entry["schedule"] for name, entry in schedule.items()} == {
        "expire-finished-tasks": 60,
        "reap-stale-tasks": 10,
        "resend-lost-messages": 10,
        "audit-records": 600,
    }
    for entry in schedule.values():
        assert entry["options"]["queue"] == "maintenance"
        assert not service.celery.tasks[entry["task"]].send_events, "Flower shows the author's tasks"


def test_two_services_do_not_share_tools(service: TaskService) -> None:
    other = TaskService("Other", settings=Settings(redis_url=None))
    service.tool()(echo)
    assert "echo" not in other.celery.tasks


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "sometimes"}, "expected 'forbidden', 'optional' or 'required'"),
        ({"task": "required", "grace": timedelta(seconds=1)}, "grace= is for task='optional' only"),
        ({"timeout": timedelta(0)}, "timeout=0:00:00: expected more than 0"),
        ({"ttl": timedelta(days=31)}, "at most 30 days"),
        ({"queue_timeout": 5}, "expected a datetime.timedelta"),
        ({"max_attempts": 0}, "at least 1"),
        ({"lease": timedelta(milliseconds=100)}, "lease"),
        ({"retention": timedelta(days=30)}, "retention"),
        ({"tiemout": timedelta(hours=1)}, "no option tiemout"),
        ({"name": "has space"}, "Tool name"),
        ({"handle_after": 5}, "handle_after=5: expected a datetime.timedelta"),
        ({"task": "forbidden", "handle_after": timedelta(seconds=5)}, "handle_after= is for task='optional'"),
        ({"release_client": "yes"}, "release_client='yes': expected True or False"),
        ({"task": "required", "release_client": True}, "task='required' has none of"),
        ({"ask": {"mood": str}}, "ask='mood': expected a Form or a Link"),
    ],
)
def test_an_option_that_cannot_work_is_refused_with_a_sentence(
    service: TaskService, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        service.tool(**options)(echo)
    assert not service.tools


def test_messages_go_to_the_stores_own_redis_unless_told_otherwise() -> None:
    service = TaskService("Acme", settings=Settings(redis_url="redis://cache:6380/3"))
    assert service.celery.conf.broker_url == "redis://cache:6380/3"
    assert service.dispatcher.in_store


def test_a_broker_elsewhere_is_published_to_after_the_commit() -> None:
    settings = Settings(redis_url="redis://cache/0", broker_url="amqp://rabbit//")
    service = TaskService("Acme", settings=settings)
    assert service.celery.conf.broker_url == "amqp://rabbit//"
    assert not service.dispatcher.in_store
