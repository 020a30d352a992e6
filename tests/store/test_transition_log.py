"""A transition that was written is one line of the log, also where the reply to its EXEC was lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing

import pytest

from tasks_service.domain.errors import InvalidTransition
from tasks_service.domain.events import Claim, CompleteWithResult, Renew
from tasks_service.domain.names import task_hash
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import RESULT, creation
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.servers import RedisServer


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[list[tuple[str, str]]]:
    """What the log has told: tasks and events."""
    found: list[tuple[str, str]] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields = getattr(record, "tasks_service", {})
            found.append((fields["task"], fields["event"]))

    logger, handler = logging.getLogger("tasks_service.transitions"), Told()
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield found
    logger.removeHandler(handler)


@pytest.fixture(
    params=[Verdict.PASS, Verdict.CUT_BEFORE, Verdict.CUT_AFTER], ids=lambda verdict: verdict.name
)
def store(
    redis_server: RedisServer, redis_url: str, request: pytest.FixtureRequest
) -> Iterator[RedisTaskStore]:
    """A store whose every second EXEC meets a fate."""
    proxy, packets = CuttingProxy(redis_server.port), iter(range(1_000))

    def judge(packet: bytes) -> Verdict:
        is_struck = b"\r\nEXEC\r\n" in packet and next(packets) % 2 == 0
        verdict: Verdict = request.param
        return verdict if is_struck else Verdict.PASS

    proxy.judge = judge
    with closing(RedisTaskStore(proxy.url, shards=1)) as opened:
        yield opened
    proxy.close()


def test_a_transition_is_told_once_whatever_its_connection_meets(
    store: RedisTaskStore, told: list[tuple[str, str]]
) -> None:
    task_id = store.create(creation()).task.task_id
    store.claim(task_id, Claim(lease_id="l", worker="w"))
    store.commit(task_id, Renew(lease_id="l"))
    store.commit(task_id, CompleteWithResult(lease_id="l", result=RESULT))

    name = task_hash(task_id)
    assert told == [(name, "created"), (name, "claimed"), (name, "completed")]


def test_what_was_refused_or_repeated_is_not_told(redis_url: str, told: list[tuple[str, str]]) -> None:
    with closing(RedisTaskStore(redis_url, shards=1)) as store:
        event = creation(idempotency="key", request_digest="d")
        store.create(event)
        again = store.create(creation(idempotency="key", request_digest="d"))
        assert again.replayed
        store.claim(event.task_id, Claim(lease_id="l", worker="w"))
        with pytest.raises(InvalidTransition):
            store.claim(event.task_id, Claim(lease_id="m", worker="v"))

    assert [what for _, what in told] == ["created", "claimed"]
