"""What `tasks-service call` says of a task that no worker takes."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_service.cli.progress import ProgressBar
from tasks_service.cli.waiting import QUIET_SECONDS, WaitReporter
from tasks_service.client.messages import TaskState
from tasks_service.extension import TASK_META

QUEUED, NO_WORKER = (
    "Waits for a worker.",
    "Waits: no worker that has the tool 'stock' takes the queue 'tasks'.",
)


def state(message: str | None, **fields: Any) -> TaskState:
    times = {"created_at": "2026-01-01T00:00:00Z", "last_updated_at": "2026-01-01T00:00:00Z"}
    return TaskState(
        **{"task_id": "t", "status": "working", "ttl_ms": None, **times, **fields}, status_message=message
    )


class Waiting:
    """A call that waits, at times that the test says."""

    def __init__(self) -> None:
        self.now, self.lines = 0.0, list[str]()
        self._reporter = WaitReporter(self.lines.append, lambda: self.now)

    def polls(self, message: str | None, *, seconds: float = 0.0, **fields: Any) -> list[str]:
        self.now += seconds
        self._reporter.watch(state(message, **fields))
        return self.lines


def test_what_a_call_waits_for_is_told_once_after_some_seconds() -> None:
    call = Waiting()
    assert call.polls(NO_WORKER) == call.polls(NO_WORKER, seconds=QUIET_SECONDS / 2) == []
    (line,) = call.polls(NO_WORKER, seconds=QUIET_SECONDS / 2)
    assert line.startswith(NO_WORKER) and "tasks-service doctor" in line
    assert call.polls(NO_WORKER, seconds=60) == [line]


def test_another_reason_is_told_too() -> None:
    call = Waiting()
    call.polls(QUEUED)
    call.polls(QUEUED, seconds=QUIET_SECONDS)
    call.polls(NO_WORKER)
    assert [line.partition(".")[0] for line in call.polls(NO_WORKER, seconds=QUIET_SECONDS)] == [
        QUEUED.rstrip("."),
        NO_WORKER.rstrip("."),
    ]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (None, {}),
        ("3 of 4", {"_meta": {TASK_META: {"progress": {"progress": 3, "total": 4}}}}),
        ("A question is open.", {"status": "input_required"}),
        ("Done.", {"status": "completed"}),
    ],
)
def test_of_a_task_that_runs_asks_or_has_ended_nothing_is_told(
    message: str | None, fields: dict[str, Any]
) -> None:
    call = Waiting()
    call.polls(message, **fields)
    assert call.polls(message, seconds=60, **fields) == []


def test_it_is_told_without_a_terminal_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks_service.cli.waiting.QUIET_SECONDS", 0.0)
    with ProgressBar("stock") as bar:
        bar.watch(state(NO_WORKER))
        bar.watch(state(NO_WORKER))
    assert capsys.readouterr().err.startswith(f"stock: {NO_WORKER}")
