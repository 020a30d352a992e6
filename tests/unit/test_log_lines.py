"""The lines of the log: one a record, the same fields in text and JSON, and what they belong to."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tasks_service.domain.decide import TRANSITIONS, Applied, decide
from tasks_service.domain.events import Claim, CompleteWithResult, Create, Event, Expire, Release, Renew
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import JsonText, Owner, Task
from tasks_service.observability import transitions
from tasks_service.observability.context import Context, Source, note_task, of_task, within
from tasks_service.observability.formats import (
    FIELDS,
    FORMATTERS,
    JsonFormatter,
    TextFormatter,
    json_line,
    time_of,
)
from tasks_service.observability.records import carry_context
from tasks_service.observability.transitions import log_transitions
from tests.kit.pages import ROOT

CREATE = Create(
    task_id="00a-task-that-nobody-else-has",
    owner=Owner("an-owner"),
    tool="render",
    queue="tasks",
    arguments=JsonText('{"scene":"CANARY"}'),
    trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    service="Acme",
)
NAME = task_hash(CREATE.task_id)

Written = Callable[[], str]


def written_by(formatter: logging.Formatter) -> Iterator[Written]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    names = ("tasks_service.transitions", "tasks_service.requests", "acme")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    carry_context()
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield stream.getvalue
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def as_json() -> Iterator[Written]:
    yield from written_by(JsonFormatter())


@pytest.fixture
def as_text() -> Iterator[Written]:
    yield from written_by(TextFormatter())


def applied(task: Task | None, event: Event, now_ms: int) -> Applied:
    decision = decide(task, event, now_ms)
    assert isinstance(decision, Applied), decision
    return decision


def happens(task: Task | None, event: Event, now_ms: int, name: str = "") -> Task:
    """An event is written, and told."""
    decision = applied(task, event, now_ms)
    log_transitions(event, task, decision.task, decision.log, name)
    assert decision.task is not None
    return decision.task


def lives() -> None:
    """A task is created, claimed, and completes."""
    created = happens(None, CREATE, 1_000, "alice")
    claimed = happens(created, Claim(lease_id="l", worker="celery@web-1/812", services=frozenset()), 1_038)
    happens(claimed, CompleteWithResult(lease_id="l", result=JsonText('"CANARY"')), 2_038)


def test_each_transition_is_one_line_with_what_it_belongs_to_and_nothing_that_was_given(
    as_json: Written,
) -> None:
    lives()

    created, claimed, completed = map(json.loads, as_json().splitlines())
    assert [line["event"] for line in (created, claimed, completed)] == ["created", "claimed", "completed"]
    for line in (created, claimed, completed):
        assert (line["task"], line["tool"], line["service"]) == (NAME, "render", "Acme")
        assert line["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert (line["level"], line["logger"]) == ("info", "tasks_service.transitions")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert (created["owner"], claimed["owner"]) == ("alice", "an-owner")
    assert (claimed["from"], claimed["to"], claimed["attempt"], claimed["claim"]) == (
        "pending",
        "running",
        1,
        1,
    )
    assert (claimed["phase_ms"], claimed["worker"]) == (38, "celery@web-1/812")
    assert completed["phase_ms"] == 1_000
    assert "CANARY" not in as_json()
    assert CREATE.task_id not in as_json()


def test_what_should_not_happen_is_a_warning_and_what_an_error_result_says_is_told_by_its_outcome(
    as_json: Written,
) -> None:
    claim = Claim(lease_id="l", worker="w", services=frozenset())
    running = applied(applied(None, CREATE, 1_000).task, claim, 1_001).task
    happens(running, Release(lease_id="l", lost=True), 1_002)
    happens(running, Release(lease_id="l"), 1_002)
    failed = CompleteWithResult(lease_id="l", result=JsonText("{}"), is_error=True)
    happens(running, failed, 1_003)

    lost, released, completed = map(json.loads, as_json().splitlines())
    assert (lost["event"], lost["level"]) == ("lost", "warning")
    assert (released["event"], released["level"]) == ("released", "info")
    assert (completed["event"], completed["outcome"]) == ("completed", "failed")


def test_every_event_that_moves_a_task_has_words_of_its_own() -> None:
    events = {event for following in TRANSITIONS.values() for event in following}
    assert events - {Expire, Renew} == set(transitions._OF_EVENTS)


def test_a_transition_of_somebody_elses_task_is_not_told_under_the_name_of_who_asks(as_json: Written) -> None:
    with within(Context(Source(owner="another-owner", name="bob"), request="r-1")):
        happens(None, CREATE, 1_000)

    line = json.loads(as_json())
    assert (line["owner"], line["request"]) == ("an-owner", "r-1")


def test_whatever_is_logged_carries_the_task_also_on_an_event_loop_and_not_outside(as_json: Written) -> None:
    logger = logging.getLogger("acme.renders")

    async def tool() -> None:
        async def beside() -> None:
            logger.info("beside")

        await asyncio.create_task(beside())

    with within(Context(task=NAME, tool="render", attempt=2, claim=3)):
        logger.info("words", extra={"task": "an author's own field"})
        asyncio.run(tool())
        thread = threading.Thread(target=logger.info, args=("a thread of the tool's own",))
        thread.start()
        thread.join()
    logger.info("after it")

    words, beside, thread_, after = map(json.loads, as_json().splitlines())
    for line in (words, beside):
        assert (line["task"], line["tool"], line["attempt"], line["claim"]) == (NAME, "render", 2, 3)
    assert "task" not in thread_
    assert "task" not in after


def test_text_and_json_have_the_same_fields(as_text: Written) -> None:
    lives()

    created, claimed, _ = as_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z info +\S*\[\d+\] tasks_service.transitions: A task", created)
    assert f"task={NAME} tool=render owner=alice" in created
    assert "attempt=1 claim=1" in claimed
    assert "event=claimed from=pending to=running" in claimed


def test_no_message_can_end_its_line_or_begin_another() -> None:
    message, argument = "one\ntwo\r\u2028three \x1b[31m %s", "\nfour\x85\ud800"
    record = logging.LogRecord("acme", logging.WARNING, "", 0, message, (argument,), None)

    assert len(TextFormatter().format(record).splitlines()) == 1
    assert r"one\ntwo\r\u2028three \x1b[31m \nfour\x85\ud800" in TextFormatter().format(record)
    assert len(JsonFormatter().format(record).splitlines()) == 1
    assert json.loads(JsonFormatter().format(record))["message"] == record.getMessage()


def test_a_value_that_could_be_taken_for_more_fields_is_quoted(as_text: Written) -> None:
    with within(Context(Source(owner="o", name='al ice" task=00'))):
        logging.getLogger("acme").warning("words")

    assert as_text().rstrip().endswith(r'owner="al ice\" task=00"')


def test_the_lines_of_a_traceback_are_found_by_the_task(as_text: Written) -> None:
    with of_task(CREATE.task_id):
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            logging.getLogger("acme").exception("It failed")

    first, *following = as_text().splitlines()
    assert "It failed" in first
    assert len(following) >= 4
    assert all(line.startswith(f"    {NAME} ") for line in following)


def test_a_traceback_is_a_field_in_json(as_json: Written) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("acme").exception("It failed")

    line = json.loads(as_json())
    assert line["exception"].endswith("ValueError: first\nsecond")


def test_the_guide_has_every_field_and_lines_have_no_other(as_json: Written) -> None:
    guide = (ROOT / "docs/guide-operators.md").read_text(encoding="utf-8")
    section = guide.partition("\n## Logs\n")[2].partition("\n## ")[0]
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    lives()

    assert table == dict(FIELDS)
    for line in map(json.loads, as_json().splitlines()):
        assert line.keys() <= FIELDS.keys()


def test_what_else_a_process_prints_becomes_a_line_of_json() -> None:
    assert json_line("worker", '{"time":"now"}') == '{"time":"now"}'
    for printed in ("a banner", "7", "{not json"):
        line = json.loads(json_line("worker", printed))
        assert (line["message"], line["role"], line["level"]) == (printed, "worker", "info")


def test_times_are_those_of_the_record() -> None:
    assert time_of(0.0) == "1970-01-01T00:00:00.000Z"
    assert time_of(1_800_000_000.9996) == "2027-01-15T08:00:00.999Z"
    assert time_of(0.5) == "1970-01-01T00:00:00.500Z"


def test_a_record_of_ours_suits_every_format_of_others(as_json: Written) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    everything = "%(asctime)s %(process)d %(thread)d %(threadName)s %(module)s %(lineno)d %(msecs)d "
    handler.setFormatter(logging.Formatter(everything + "%(processName)s %(levelname)s %(message)s"))
    logging.getLogger("tasks_service.transitions").addHandler(handler)
    try:
        lives()
    finally:
        logging.getLogger("tasks_service.transitions").removeHandler(handler)

    assert stream.getvalue().count("INFO A ") == 2
    assert as_json().count("\n") == 3


def test_a_line_whose_level_is_off_is_not_made(monkeypatch: pytest.MonkeyPatch, as_json: Written) -> None:
    logging.getLogger("tasks_service.transitions").setLevel(logging.WARNING)
    monkeypatch.setattr(transitions, "_fields", lambda *_: pytest.fail("it was made"))

    lives()
    assert as_json() == ""


def test_the_first_of_several_tasks_is_kept() -> None:
    with within(Context()) as context:
        note_task("00first", "render", CREATE.trace)
        note_task("00second", "print")

    assert context == replace(
        Context(), task=task_hash("00first"), tool="render", trace="4bf92f3577b34da6a3ce929d0e0e4736"
    )


def test_there_is_a_formatter_for_each_value_of_the_setting() -> None:
    assert set(FORMATTERS) == {"text", "json"}
