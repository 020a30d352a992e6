"""How much of what a tool reports leaves its worker, and when."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from tasks_service.domain.errors import LimitExceeded, NotJson
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.reports import LOG_DATA_BYTES, LOGGER_BYTES, LogLevel, LogMessage, Report
from tasks_service.domain.task import JsonText, Progress
from tasks_service.durable.log_messages import log_message
from tasks_service.store.changes import Reported
from tasks_service.worker.report_publisher import (
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    WAITING_MESSAGES,
    ReportPublisher,
    ReportQueue,
)


class Channel:
    """Where reports are published; nobody listens unless told otherwise."""

    def __init__(self) -> None:
        self.reported: list[Reported] = []

    def report(self, reported: Sequence[Reported]) -> list[int]:
        self.reported.extend(reported)
        return [1 for _ in reported]


class Still(ReportPublisher):
    """Publishes only what a queue's end sends: the tests take the rest by hand."""

    def watch(self, queue: ReportQueue) -> None:
        """Start no thread."""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(channel: Channel, clock: Clock) -> ReportQueue:
    return ReportQueue("a-task", DEFAULT_LIMITS, Still(channel), clock)


def progress(current: float) -> Progress:
    return Progress(current=current)


def message(number: int) -> LogMessage:
    return LogMessage(LogLevel.INFO, JsonText(str(number)))


def taken(queue: ReportQueue, listeners: int = 1) -> list[Report]:
    """What leaves now, and that so many heard it."""
    reported = queue.take()
    if reported is None:
        return []
    queue.published(reported, listeners)
    return list(reported.reports)


def test_reports_leave_in_the_order_in_which_they_were_made(queue: ReportQueue) -> None:
    made = [progress(1), message(1), message(2), progress(2)]
    for report in made:
        queue.add(report)

    assert taken(queue) == made
    assert taken(queue) == []


def test_at_most_fifty_leave_in_any_second_and_the_newest_of_them(queue: ReportQueue, clock: Clock) -> None:
    leaving: list[tuple[float, Report]] = []
    for number in range(5_000):
        queue.add(progress(number))
        queue.add(message(number))
        if queue.due <= clock.now:
            leaving += [(clock.now, report) for report in taken(queue)]
        clock.now += 0.001

    for begin in range(4):
        within = [report for at, report in leaving if 1_000 + begin <= at < 1_001 + begin]
        assert 30 <= len(within) <= 50
    numbers = [report.current for _, report in leaving if isinstance(report, Progress)]
    assert numbers == sorted(numbers)


def test_the_end_sends_the_newest_progress_and_the_messages_that_wait(
    queue: ReportQueue, channel: Channel
) -> None:
    for number in range(1_000):
        queue.add(progress(number))
        queue.add(message(number))

    queue.close(publish=True)

    (reported,) = channel.reported
    assert [report for report in reported.reports if isinstance(report, Progress)] == [progress(999)]
    assert reported.reports[-1] == message(999)
    assert len(reported.reports) == 1 + WAITING_MESSAGES


def test_after_the_end_nothing_leaves(queue: ReportQueue, channel: Channel) -> None:
    queue.add(progress(1))
    queue.close(publish=False)
    queue.add(progress(2))
    queue.close(publish=True)

    assert channel.reported == []


def test_while_nobody_listens_the_newest_is_offered_more_and_more_rarely(
    queue: ReportQueue, clock: Clock
) -> None:
    queue.add(progress(1))
    pauses = []
    while reports := taken(queue, listeners=0):
        assert reports == [progress(1)]
        pauses.append(queue.due - clock.now)
        clock.now = queue.due

    assert pauses[0] == pytest.approx(FIRST_BACKOFF)
    assert pauses[-1] == pytest.approx(LONGEST_BACKOFF)
    assert pauses == sorted(pauses)
    assert sum(pauses) > 1.5, "by then it is in the record"


def test_what_could_not_be_published_is_tried_again_in_a_second(queue: ReportQueue, clock: Clock) -> None:
    queue.add(progress(1))
    queue.add(message(1))
    reported = queue.take()
    assert reported is not None
    queue.not_published(reported)

    assert queue.due == pytest.approx(clock.now + LONGEST_BACKOFF)
    assert taken(queue) == [progress(1)]


def test_log_messages_are_cut_to_size() -> None:
    long = log_message("info", "ä" * 100_000, "n" * 1_000)
    assert len(json.loads(long.data).encode()) <= LOG_DATA_BYTES
    assert len(long.logger or "") <= LOGGER_BYTES
    assert json.loads(log_message("info", {"list": list(range(9_000))}, None).data).startswith('{"list":[0,1')


def test_a_log_message_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of debug, info"):
        log_message("verbose", "x", None)
    with pytest.raises(NotJson):
        log_message("info", object(), None)
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(LimitExceeded):
        log_message("info", deep, None)


def test_a_text_that_is_no_unicode_is_sent_all_the_same() -> None:
    assert json.loads(log_message("info", "a file called \udcff", None).data) == "a file called ?"


@pytest.mark.parametrize("level", list(LogLevel))
def test_levels_are_ordered_by_gravity(level: LogLevel) -> None:
    order = list(LogLevel)
    assert [level.reaches(threshold) for threshold in order] == [
        order.index(level) >= order.index(threshold) for threshold in order
    ]
