"""Which messages a worker is given: whatever a queue holds is judged, and no shape of it raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from tasks_service.broker.app import create_app
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.broker.incoming import Sender, problem_of
from tests.kit.hostile import embedded, variants
from tests.unit.test_dispatch import URL, a_task


def sender_of(name: str) -> Sender:
    return {"draw": Sender.TOOL, "tasks_service.reap_stale_tasks": Sender.BEAT}.get(name, Sender.OTHER)


def judged(message: Any, *, alone: bool = True) -> str | None:
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    return problem_of(raw, sender_of, alone=alone)


def of_app(app: Celery) -> Any:
    (push,) = Dispatcher(app, redis_url=URL).pushes(a_task(), 0)
    return json.loads(push.payload)


@pytest.fixture
def app() -> Celery:
    return create_app("acme", broker_url=URL, key_prefix="ts")


@pytest.fixture
def real(app: Celery) -> Any:
    return of_app(app)


def test_what_our_own_code_sends_is_admitted(real: Any) -> None:
    assert judged(real) is None
    assert judged(real, alone=False) is None


def test_what_our_own_code_sends_with_an_older_protocol_or_compressed_is_admitted() -> None:
    for settings in ({"task_protocol": 1}, {"task_compression": "gzip"}):
        app = create_app("acme", broker_url=URL, key_prefix="ts")
        app.conf.update(settings)
        assert judged(of_app(app)) is None, settings


def test_headers_that_an_instrumentation_adds_are_admitted(real: Any) -> None:
    real["headers"] |= {"traceparent": "00-1-2-01", "sentry": {"baggage": ["a"]}}
    assert judged(real) is None


def test_what_beat_asks_for_is_admitted(real: Any) -> None:
    real["headers"] |= {"task": "tasks_service.reap_stale_tasks", "expires": "2026-01-01T00:00:00+00:00"}
    assert judged(embedded(real, [[], {}, {}])) is None


def test_a_message_of_another_celery_task_is_admitted_in_any_queue(real: Any) -> None:
    real["headers"] |= {"task": "shop.mail", "eta": "2026-01-01T00:00:00+00:00", "timelimit": [3, 5]}
    other = embedded(real, [[1, 2], {"to": "ann"}, {"callbacks": [{}]}])
    assert judged(other) is None
    assert judged(other, alone=False) is None


@pytest.mark.parametrize("raw", [b"", b"not JSON", b"\xff", b"null", b"[]", b'{"body": "x"}', b"[" * 100_000])
def test_what_names_no_task_of_ours_is_dropped_where_we_are_alone_and_celerys_elsewhere(raw: bytes) -> None:
    assert judged(raw) is not None
    assert judged(raw, alone=False) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"body": None}, "no body"),
        ({"body": ""}, "no body"),
        ({"properties": {}}, "no delivery tag"),
        ({"properties": None}, "no properties"),
        ({"content-type": "application/x-python-serialize"}, "not JSON"),
        ({"content-encoding": "rot13"}, "not in UTF-8"),
        ({"body": "!!!"}, "JSON"),
    ],
)
def test_a_message_of_ours_that_is_damaged_is_dropped_with_the_reason_in_any_queue(
    real: Any, change: dict[str, Any], problem: str
) -> None:
    for alone in (True, False):
        found = judged({**real, **change}, alone=alone)
        assert found is not None and problem in found


def test_a_message_without_a_body_is_dropped(real: Any) -> None:
    del real["body"]
    assert "no body" in str(judged(real))


@pytest.mark.parametrize(
    "body",
    [
        [[], {"task": "x", "dispatched_ms": True}, {}],
        [[], {"task": "x", "dispatched_ms": 10**400}, {}],
        [[], {"task": "", "dispatched_ms": 1}, {}],
        [[], {"task": "\ud800", "dispatched_ms": 1}, {}],
        [["x", 1], {}, {}],
        [[], {"task": "x", "dispatched_ms": 1}, {"callbacks": [{"task": "os.system"}]}],
        [[], {"task": {"__type__": "uuid", "__value__": "no"}, "dispatched_ms": 1}, {}],
        {"task": "x"},
        None,
    ],
)
def test_arguments_that_are_no_reference_are_dropped(real: Any, body: Any) -> None:
    assert judged(embedded(real, body)) is not None


def test_no_shape_of_a_message_makes_the_judge_raise(real: Any) -> None:
    judgements = [judged(message, alone=alone) for message in variants(real) for alone in (True, False)]
    assert any(problem is None for problem in judgements)
    assert any(problem is not None for problem in judgements)
