"""What Celery's workers publish is an event; what would damage the picture of whoever hears it is none."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from celery.events.state import State
from celery.utils.sysinfo import load_average
from celery.utils.time import utcoffset
from celery.worker.state import SOFTWARE_INFO

from tasks_service.broker.events import problem_of_event
from tests.kit.hostile import ABSENT, EVENT, VALUES, paths, replaced

OF_CELERY: tuple[dict[str, Any], ...] = (
    {
        "type": "worker-heartbeat",
        "freq": 2.0,
        "active": 0,
        "processed": 7,
        "loadavg": load_average(),
        "clock": 3,
    },
    {"type": "worker-offline", **SOFTWARE_INFO},
    {"type": "worker-elect", "id": "x", "topic": "task", "action": {"task": "t"}, "cver": 1},
    {"type": "task-received", "uuid": "u", "name": "t", "args": "()", "retries": 0, "eta": None, "clock": 1},
    {"type": "task-succeeded", "uuid": "u", "result": "None", "runtime": 0.25},
    {"type": "task-revoked", "uuid": "u", "terminated": True, "signum": 15, "expired": False},
    {"type": "shop-sold", "article": {"any": ["thing"]}},
)
SAID = {"hostname": "celery@h", "timestamp": time.time(), "utcoffset": utcoffset(), "pid": 1, "clock": 1}


def message(body: Any, encoding: str = "base64") -> dict[str, Any]:
    text = json.dumps(body).encode()
    sent = base64.b64encode(text).decode() if encoding == "base64" else text.decode()
    return {"body": sent, "properties": {"body_encoding": encoding}}


@pytest.mark.parametrize("event", OF_CELERY, ids=lambda event: event["type"])
@pytest.mark.parametrize("encoding", ["base64", "utf-8"])
def test_what_workers_publish_is_an_event(event: dict[str, Any], encoding: str) -> None:
    assert problem_of_event(message({**SAID, **event}, encoding)) == ""
    assert problem_of_event(message([{**SAID, **event}] * 2, encoding)) == ""


@pytest.mark.parametrize("body", [None, 5, "x", [5], {}, {"type": "x"}, {"hostname": "h", "type": 1}])
def test_what_has_not_the_shape_of_an_event_is_none(body: Any) -> None:
    assert problem_of_event(message(body))


SHADOWS = {"heartbeats": [1], "event": 1, "alive": 1, "worker": 1, "as_dict": 1, "_": 1}
"""Fields that are called as what Celery's receivers keep."""


@pytest.mark.parametrize("kind", ["worker-heartbeat", "worker-online", "task-received", "task-sent"])
def test_whatever_passes_leaves_a_picture_that_can_be_read(kind: str) -> None:
    """Every field damaged in every way, in Celery's own receiver, as Flower reads it."""
    sound = {**EVENT, "type": kind}
    damaged = [replaced(sound, path, value) for path in paths(sound) for value in (ABSENT, *VALUES)]
    damaged += [{**sound, name: value} for name, value in SHADOWS.items()]
    passed = [event for event in damaged if not problem_of_event(message(event))]
    assert 50 < len(passed) < len(damaged) - 50
    for event in passed:
        state = State()
        with suppress(AttributeError, KeyError):  # Flower logs these, and goes on
            state.event({**event, "local_received": 1.0})
        for worker in state.workers.values():
            assert worker.hostname.encode() == b"celery@elsewhere" or event["hostname"] in (
                "",
                "x",
                "x" * 70_000,
            )
            assert worker.status_string in ("ONLINE", "OFFLINE") and worker.freq < 2**54, event
        for task in state.tasks.values():
            assert task.as_dict()["uuid"].encode() is not None, event
            assert (task.received or 0) + (task.sent or 0) + (task.timestamp or 0) < 2**54, event
