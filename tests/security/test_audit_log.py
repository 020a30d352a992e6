"""The audit log: a line about each request, of either revision, with nothing in it that a caller chose."""

from __future__ import annotations

import getpass
import json
import logging
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from tasks_service import TaskService, audit_log
from tasks_service.audit_log import REFUSAL_SECONDS, AuditFormatter, audited, open_audit_log
from tasks_service.authoring.library import Library
from tasks_service.authoring.prompt import build_prompt
from tasks_service.authoring.resource import build_resource
from tasks_service.cli import commands
from tasks_service.crypto.owners import API_KEY_ISSUER, Principal, owner_of
from tasks_service.domain.errors import ConfigurationError
from tasks_service.domain.names import task_hash
from tasks_service.frontend.core import wire_common
from tasks_service.frontend.v2025_11_25 import wire as earlier
from tasks_service.frontend.v2026_07_28 import wire as later
from tasks_service.observability.context import Context, Source, note_task
from tests.kit.serving import SECRET, registry, serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

from .conftest import KEY, greet

OTHER = "Hn8vT4sJd6pGq1Wf"
CANARY = "CANARY4f9bQ7"
OWNER = owner_of(Principal(issuer=API_KEY_ISSUER, subject="alice"), SECRET.encode())

Line = dict[str, Any]


class Lines(logging.Handler):
    """The lines that were written, as a file would have them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(AuditFormatter())
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def take(self) -> list[Line]:
        taken, self.texts = self.texts, []
        return [json.loads(text) for text in taken]

    def one(self) -> Line:
        wait_until(lambda: self.texts, "the line is written")
        (line,) = self.take()
        return line


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The log is on, and the test reads it."""
    monkeypatch.setattr(audit_log, "_refusals", audit_log._Refusals())
    handler, logger = Lines(), logging.getLogger(audit_log.NAME)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture(scope="module")
def port(steady_redis: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    library = Library()
    library.resources.add(build_resource("res://one", lambda: "text"))
    library.prompts.add(build_prompt(greet))
    configuration = settings(steady_redis, tmp_path_factory.mktemp("data"), api_keys=f"alice:{KEY}")
    with serving(registry(greet), configuration, library) as served:
        yield served


def methods_of(*modules: ModuleType) -> list[str]:
    """Every method that the wire modules name."""
    texts = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    return sorted(
        text
        for text in texts
        if re.fullmatch(r"(ping|initialize|(?!notifications/)[a-z]+(/[a-zA-Z]+)+)", text)
        and not text.startswith("application/")
    )


LATER, EARLIER = methods_of(wire_common, later), methods_of(wire_common, earlier)


def test_the_methods_are_found() -> None:
    assert {"tools/call", "tasks/get", "tasks/update", "subscriptions/listen", "server/discover"} < set(LATER)
    assert {"tools/call", "tasks/get", "tasks/result", "ping", "logging/setLevel"} < set(EARLIER)


NONSENSE = {"name": CANARY, "uri": CANARY, "taskId": CANARY, "level": CANARY, "arguments": {CANARY: CANARY}}


@pytest.mark.parametrize("method", LATER)
def test_every_method_without_sessions_leaves_one_line(port: int, lines: Lines, method: str) -> None:
    with WireClient(port, key=KEY) as client:
        client.request(method, dict(NONSENSE))

    wait_until(lambda: lines.texts, "the line is written")
    assert CANARY not in lines.texts[0]
    line = lines.one()
    assert (line["action"], line["owner"], line["address"]) == (method, OWNER, "127.0.0.1")
    assert line["outcome"] in ("ok", "error")


@pytest.mark.parametrize("method", EARLIER)
def test_every_method_of_sessions_leaves_one_line(port: int, lines: Lines, method: str) -> None:
    with SessionClient([port], key=KEY) as client:
        client.initialize()
        wait_until(lambda: len(lines.texts) == 2, "the session's beginning is written")
        assert [line["action"] for line in lines.take()] == ["initialize", "notification"]
        client.request(method, dict(NONSENSE))

        wait_until(lambda: lines.texts, "the line is written")
        assert CANARY not in lines.texts[0]
        line = lines.one()
    expected = {method} if method != "initialize" else {method, "http POST"}
    assert line["action"] in expected
    assert (line["owner"], line["address"]) == (OWNER, "127.0.0.1")


def test_a_call_is_told_with_its_tool_and_task_and_without_what_it_says(port: int, lines: Lines) -> None:
    with WireClient(port, key=KEY) as client:
        task_id = client.task("greet", {"name": CANARY})
        called = lines.one()
        client.request("tasks/get", {"taskId": task_id})
        read = lines.one()
        client.request("tools/call", {"name": "task_cancel", "arguments": {"task_id": task_id}})
        cancelled = lines.one()
        client.request(f"{CANARY}/unknown")
        unknown = lines.one()

    texts = [json.dumps(line) for line in (called, read, cancelled, unknown)]
    assert not any(CANARY in text or task_id in text or KEY in text for text in texts)
    wanted = [("tools/call", "greet"), ("tasks/get", "greet"), ("tools/call", "task_cancel")]
    for line, (action, tool) in zip((called, read, cancelled), wanted, strict=True):
        assert (line["action"], line["tool"], line["task"]) == (action, tool, task_hash(task_id))
        assert line["outcome"] == "ok"
    assert (unknown["action"], unknown["outcome"]) == ("unknown method", "error")


def test_streams_responses_and_the_end_of_a_session_leave_lines(port: int, lines: Lines) -> None:
    with SessionClient([port], key=KEY) as client:
        client.initialize()
        wait_until(lambda: len(lines.texts) == 2, "the session's beginning is written")
        lines.take()
        stream = client.listen()
        stream.close()
        wait_until(lambda: lines.texts, "the end of the stream is noticed")
        assert lines.one()["action"] == "http GET"
        client.respond(f"{CANARY}", {})
        assert lines.one()["action"] == "response"
        client.post({}, method="DELETE")
    assert lines.one()["action"] == "http DELETE"


def test_refusals_are_counted_and_written_at_a_bounded_rate(
    port: int, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WireClient(port) as client:
        for _ in range(15):
            assert client.request("tools/list").status == 401
        assert client.request("tools/list", host=CANARY.lower()).status == 421

    wait_until(lambda: len(lines.texts) == 2, lambda: repr(lines.texts))
    first, other = lines.take()
    assert (first["action"], first["status"], first["outcome"]) == ("http POST", 401, "refused")
    assert other["status"] == 421

    monkeypatch.setattr(audit_log, "REFUSAL_SECONDS", 0.0)
    with WireClient(port) as client:
        client.request("tools/list")

    def counted() -> int:
        found = [json.loads(text) for text in lines.texts]
        return sum(line.get("count", 1) for line in found if line["status"] == 401)

    wait_until(lambda: counted() >= 15, lambda: repr(lines.texts))
    assert counted() == 15


def test_refusals_of_ever_new_kinds_are_counted_together(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(audit_log.REFUSAL_KINDS + 100):
        audit_log.write(
            audit_log.Entry("http POST", Context(Source(address=str(number))), outcome="refused", status=401)
        )

    assert len(lines.texts) == audit_log.REFUSAL_KINDS + 1
    assert lines.take()[-1]["action"] == "others"
    assert REFUSAL_SECONDS >= 60


def test_what_fails_or_is_cancelled_leaves_a_line_too(lines: Lines) -> None:
    with pytest.raises(ValueError), audited("something"):
        raise ValueError(CANARY)

    line = lines.one()
    assert (line["action"], line["outcome"]) == ("something", "error")


# --- programs and operators ---


def test_a_program_that_submits_and_cancels_leaves_lines(
    redis_url: str, tmp_path: Path, lines: Lines
) -> None:
    service = TaskService("Test", settings=settings(redis_url, tmp_path, secret=SecretStr(SECRET)))
    service.tool()(greet)

    handle = service.submit("greet", name=CANARY, owner=Principal(issuer=API_KEY_ISSUER, subject="alice"))
    submitted = lines.one()
    assert (submitted["action"], submitted["owner"], submitted["tool"]) == ("submit", OWNER, "greet")
    assert submitted["task"] == task_hash(handle.task_id)

    handle.cancel()
    cancelled = lines.one()
    assert (cancelled["action"], cancelled["task"]) == ("cancel", submitted["task"])
    assert CANARY not in json.dumps([submitted, cancelled])


def test_what_an_operator_does_leaves_a_line(
    redis_url: str, tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKS_REDIS_URL", redis_url)
    service = TaskService("Test", settings=settings(redis_url, tmp_path))
    service.tool()(greet)
    task_id = service.submit("greet", name=CANARY).task_id
    lines.take()

    for command in (["inspect", task_id], ["cancel", task_id], ["cancel", task_id], ["repair", "--dry-run"]):
        CliRunner().invoke(commands, command)

    inspected, cancelled, again, repaired = lines.take()
    assert {line["operator"] for line in (inspected, cancelled, again, repaired)} == {getpass.getuser()}
    assert (inspected["action"], cancelled["action"]) == ("operator: inspect", "operator: cancel")
    assert (cancelled["task"], cancelled["outcome"]) == (task_hash(task_id), "ok")
    assert again["outcome"] == "failed"
    assert repaired["action"] == "operator: look for repairs"


# --- the file ---


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "audit.log"
    audit_log.close_audit_log()


def test_lines_are_written_to_a_file_that_others_cannot_read(file: Path) -> None:
    open_audit_log(str(file))
    open_audit_log(str(file))
    with audited("one"):
        note_task("an-id")
    wait_until(lambda: file.read_text().endswith("\n"), "it is written")

    file.rename(file.with_suffix(".1"))  # as logrotate does
    with audited("two"):
        pass
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"), "it is written anew")

    (line,) = map(json.loads, file.read_text().splitlines())
    assert line["action"] == "two"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nobody_waits_for_a_log_that_cannot_keep_up_and_what_is_lost_is_counted(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "QUEUED", 10)
    monkeypatch.setattr(audit_log, "GATHER_SECONDS", 1.0)
    open_audit_log(str(file))
    for _ in range(100):
        with audited("many"):
            pass

    wait_until(lambda: "dropped lines" in file.read_text(), "the loss is told")
    counts = [json.loads(text) for text in file.read_text().splitlines()]
    dropped = sum(line["count"] for line in counts if line["action"] == "dropped lines")
    assert dropped + sum(line["action"] == "many" for line in counts) == 100


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"TASKS_AUDIT_LOG: .* cannot be written .*Name a file"):
        open_audit_log(str(tmp_path / "missing" / "audit.log"))


def test_without_the_setting_nothing_is_written() -> None:
    open_audit_log(None)

    assert not audit_log.is_on()
