"""The log of real processes: each line about a task is found by its name, in every pool and process."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks_service.domain.names import task_hash
from tests.e2e.logged_app import service
from tests.e2e.roles import SECRET, FrontEnd, Process, command, ready
from tests.kit.pages import ROOT
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, WireClient
from tests.kit.workers import client_of, worker_node

APP = "tests.e2e.logged_app"
KEY, NAME = "CANARY-k9Xw2Lq7Zt5Rv8Bm", "alice"
ARGUMENT, ANSWER = "CANARY-argument-5e1f", "CANARY-answer-77ab"
CANARY = "CANARY"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE_PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
QUIET = ("--without-mingle", "--without-gossip", "--without-heartbeat")
JSON_LINES = {"TASKS_LOG_FORMAT": "json"}

Line = dict[str, Any]


def lines_of(text: str) -> list[Line]:
    """The lines of a log that are ours; what Celery prints before is none."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# --- every pool ---


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_all_that_a_tool_logs_is_found_by_its_task(redis_url: str, tmp_path: Path, pool: str) -> None:
    worker = worker_node(redis_url, app=APP, pool=pool, **JSON_LINES)
    try:
        with client_of(service, redis_url) as client:
            sync = client.run("talk", secret=ARGUMENT).task
            on_loop = client.run("talk_async", secret=ARGUMENT).task
            twice = client.run("fail_once", marker=str(tmp_path / "marker")).task
        # A line is written when what it tells has happened, which the client may have seen before.
        wait_until(lambda: worker.logs().count('"event":"completed"') == 3, worker.logs)
        lines = lines_of(worker.logs())
    finally:
        worker.teardown()

    def said(task_id: str) -> list[tuple[str, str]]:
        return [(line["logger"], line["message"]) for line in lines if line.get("task") == task_hash(task_id)]

    assert {
        ("acme.renders", "own words"),
        ("acme.orders", "words for Celery's logger"),
        ("celery.redirected", "printed words"),
        ("tasks_service.tools.talk", "words for the client"),
    } < set(said(sync.task_id))
    assert {
        ("acme.renders", "own words"),
        ("acme.renders", "words beside"),
        ("tasks_service.tools.talk_async", "words for the client"),
    } < set(said(on_loop.task_id))
    attempts = [
        (line["attempt"], line["claim"])
        for line in lines
        if line.get("task") == task_hash(twice.task_id) and line["logger"] == "acme.renders"
    ]
    assert attempts == [(1, 1), (2, 2)]
    life = [
        line["event"] for line in lines if line.get("task") == task_hash(twice.task_id) if "event" in line
    ]
    assert life == ["claimed", "retried", "claimed", "completed"]
    assert not any(CANARY in json.dumps(line) for line in lines)
    assert not any(task.task_id in json.dumps(lines) for task in (sync, on_loop, twice))


# --- a service ---


class Logged(NamedTuple):
    """A service that has done something, and its log."""

    lines: list[Line]
    file: Path
    text: str
    tasks: dict[str, str]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    directory = tmp_path_factory.mktemp("logs")
    redis = RedisServer()
    env = {**JSON_LINES, "TASKS_LOG_LEVEL": "debug"}
    worker_command = ["celery", "-A", APP, "worker", "--pool", "threads", "--concurrency", "2", *QUIET]
    with ExitStack() as ends:
        ends.callback(redis.close)
        web = FrontEnd(redis.url, directory, APP, **env, TASKS_API_KEYS=f"{NAME}:{KEY}")
        ends.callback(web.teardown)
        worker = Process(redis.url, "worker", worker_command, **JSON_LINES)
        ends.callback(worker.teardown)
        ready(web, "/readyz")
        tasks = use(web.port)
        cancelled = command(
            "cancel", tasks["cancelled"], TASKS_REDIS_URL=redis.url, TASKS_LOG_LEVEL="info", **JSON_LINES
        )
        wait_until(lambda: worker.logs().count('"completed"') >= 3, worker.logs)
        text = web.logs() + worker.logs() + cancelled.stderr
    file = directory / "service.log"
    file.write_text(text)
    yield Logged(lines_of(text), file, text, tasks)


def use(port: int) -> dict[str, str]:
    """Call tools as somebody with a key and a trace does; the ids of their tasks."""
    asks = {**WITH_TASKS, "elicitation": {"form": {}}}
    meta = {"traceparent": TRACE_PARENT}
    with (
        WireClient(port, key=KEY, capabilities=asks) as client,
        WireClient(port, key=KEY, capabilities=WITHOUT_TASKS) as plain,
    ):
        talk = client.task("talk", {"secret": ARGUMENT}, meta=meta)
        ended(client, talk)
        assert plain.call("talk_async", {"secret": ARGUMENT}).status == 200
        asking = client.task("ask", {"secret": ARGUMENT}, meta=meta)
        task = wait_until(lambda: (found := client.get(asking))["status"] == "input_required" and found)
        (question,) = task["inputRequests"]
        client.update(asking, {question: {"action": "accept", "content": {"secret": ANSWER}}})
        ended(client, asking)
        cancelled = client.task("ask", {"secret": ARGUMENT})
        wait_until(lambda: client.get(cancelled)["status"] == "input_required")
        assert client.call("talk", {"wrong": ARGUMENT}, meta=meta).status == 200
        assert client.call(ARGUMENT, {}, meta=meta).error
    with WireClient(port, key="CANARY-of-nobody-0123") as stranger:
        assert stranger.call("talk", {"secret": ARGUMENT}).status == 401
    return {"talk": talk, "ask": asking, "cancelled": cancelled}


def ended(client: WireClient, task_id: str) -> None:
    wait_until(lambda: client.get(task_id)["status"] in ("completed", "failed", "cancelled"))


def about(logged: Logged, name: str) -> list[Line]:
    return [line for line in logged.lines if line.get("task") == task_hash(logged.tasks[name])]


def test_the_life_of_a_task_is_told_once_by_who_wrote_it(logged: Logged) -> None:
    told = [(line["event"], line["role"]) for line in about(logged, "ask") if "event" in line]
    moves = [(event, role) for event, role in told if event not in ("recorded", "waits")]
    assert moves == [
        ("created", "front-end"),
        ("answered", "front-end"),
        ("claimed", "worker"),
        ("parked", "worker"),
        ("claimed", "worker"),
        ("completed", "worker"),
    ]
    ordered = sorted((line["revision"], line["event"]) for line in about(logged, "ask") if "event" in line)
    assert len({revision for revision, _ in ordered}) == len(ordered)


def test_every_line_says_whose_task_it_is_and_which_request_and_trace_it_belongs_to(logged: Logged) -> None:
    for line in about(logged, "talk"):
        assert line["tool"] == "talk"
        if line["level"] == "info":
            assert (line["owner"], line["trace"]) == (NAME, TRACE)
    (created,) = [line for line in about(logged, "talk") if line.get("event") == "created"]
    (answered,) = [line for line in about(logged, "talk") if line.get("method") == "tools/call"]
    assert created["request"] == answered["request"]
    assert (answered["outcome"], answered["level"]) == ("ok", "info")


def test_each_call_is_a_line_also_one_that_was_refused_and_polls_are_not_at_info(logged: Logged) -> None:
    calls = [line for line in logged.lines if line.get("method") == "tools/call"]
    assert {line["level"] for line in calls} == {"info"}
    assert len({line["request"] for line in calls}) == len(calls) == 6
    assert [line["outcome"] for line in calls].count("ok") == 4
    refused = [line for line in calls if "code" in line]
    assert all(line["trace"] == TRACE and line["owner"] == NAME for line in refused)
    polls = [line for line in logged.lines if line.get("method") == "tasks/get"]
    assert {line["level"] for line in polls} == {"debug"}


def test_an_operators_order_is_told_by_the_command(logged: Logged) -> None:
    (line,) = [line for line in about(logged, "cancelled") if line.get("event") == "cancelled"]
    assert (line["role"], line["actor"]) == ("command", "operator")


def test_no_line_of_any_process_has_an_argument_a_result_an_answer_an_id_or_a_key(logged: Logged) -> None:
    assert [line for line in logged.text.splitlines() if CANARY in line] == []
    assert [line for line in logged.text.splitlines() for task in logged.tasks.values() if task in line] == []
    assert SECRET not in logged.text


def test_workers_say_nothing_of_each_message_unless_the_command_line_wants_it(logged: Logged) -> None:
    loggers = {line["logger"] for line in logged.lines if line["role"] == "worker"}
    assert "celery.apps.worker" in loggers
    assert loggers.isdisjoint({"celery.app.trace", "celery.worker.strategy"})


# --- the guide ---

SECTION = (ROOT / "docs/guide-operators.md").read_text(encoding="utf-8").partition("### At night\n")[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", SECTION.partition("\n### ")[0], re.MULTILINE | re.DOTALL)
RECIPES = [recipe for block in BLOCKS for recipe in block.splitlines()]


def typed(logged: Logged, recipe: str) -> list[str]:
    """What a recipe of the guide prints, with the names of this service in place of the guide's."""
    talk = about(logged, "talk")
    request = next(line["request"] for line in talk if line.get("event") == "created")
    for shown, meant in {
        "00a41bd7e2c04f5b9d31": talk[0]["task"],
        "83e04767d8-1a": request,
        "render": "talk",
        "2027-01-31T03:00": talk[0]["time"][:10],
        "2027-01-31T03:10": "9999",
    }.items():
        recipe = recipe.replace(shown, meant)
    where, shell = logged.file.parent, ["bash", "-c", recipe]
    done = subprocess.run(shell, cwd=where, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_guides_recipes_lead_from_a_complaint_to_the_task(logged: Logged) -> None:
    by_time, by_name, by_trace, *_ = RECIPES
    task = task_hash(logged.tasks["talk"])

    assert [json.loads(line)["task"] for line in typed(logged, by_time)] == [task]
    assert {task_hash(id_) for id_ in logged.tasks.values()} < {
        json.loads(line)["task"] for line in typed(logged, by_name)
    }
    found = set(map(json.loads, typed(logged, by_trace)))
    assert found == {task, task_hash(logged.tasks["ask"])}


def test_the_guides_recipes_lead_from_a_task_to_all_its_lines_and_to_its_request(logged: Logged) -> None:
    grep, life, request, done_by_it = RECIPES[3:]
    lines = about(logged, "talk")

    assert len(typed(logged, grep)) >= len(lines)
    assert [json.loads(line)[4] for line in typed(logged, life)] == [line["message"] for line in lines]
    assert typed(logged, request) == [lines[0]["request"]]
    assert {json.loads(line)[1] for line in typed(logged, done_by_it)} >= {
        "tasks_service.requests",
        "tasks_service.transitions",
    }
