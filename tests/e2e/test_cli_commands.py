"""The commands of `tasks-service`, against a service that `tasks-service up` runs."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tasks_service.domain.limits import OTHER_QUEUES, Limits
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import Phase
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import creation
from tests.kit.waiting import wait_until

from .running_up import RunningUp

LONG_PICTURE = '{"width": 1024, "height": 1024, "max_iterations": 20000}'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    running = RunningUp(tmp_path_factory.mktemp("up")).start()
    yield running
    assert running.stop() == 0, running.text()


@pytest.fixture
def long_call(service: RunningUp) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A call whose tool is running, and the id of its task."""
    call = service.begin("call", "render_fractal", LONG_PICTURE)
    try:
        (task,) = wait_until(lambda: service.tasks(Phase.RUNNING), service.text)
        yield call, task.task_id
    finally:
        call.kill()
        call.communicate()
        for left in service.tasks(Phase.RUNNING):
            service.run("cancel", left.task_id)
        wait_until(lambda: not service.tasks(Phase.RUNNING), service.text)


def test_call_prints_the_structured_result(service: RunningUp) -> None:
    done = service.run("call", "profile_csv", "--arg", "path=people.csv")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3


def test_call_takes_arguments_as_json(service: RunningUp) -> None:
    done = service.call("profile_csv", '{"path": "people.csv"}')

    assert done.returncode == 0, done.stderr


def test_call_saves_the_result_where_it_is_told(service: RunningUp) -> None:
    done = service.call("profile_csv", "--arg", "path=people.csv", "--output", "profile.json")

    assert done.returncode == 0, done.stderr
    assert json.loads((service.directory / "profile.json").read_text())["rows"] == 3


def test_call_saves_an_image_under_the_name_of_its_tool(service: RunningUp) -> None:
    done = service.call("render_fractal", "--arg", "width=32", "--arg", "height=32")

    assert done.returncode == 0, done.stderr
    assert (service.directory / "render_fractal.png").read_bytes().startswith(b"\x89PNG")


def test_a_tools_error_is_shown_and_gives_exit_status_1(service: RunningUp) -> None:
    done = service.call("profile_csv", "--arg", "path=missing.csv")

    assert done.returncode == 1
    assert "missing.csv" in done.stderr


def test_bad_arguments_name_the_field(service: RunningUp) -> None:
    done = service.call("profile_csv", '{"path": 3}')

    assert done.returncode == 1
    assert "path" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "explanation"),
    [
        (["no_such_tool"], "profile_csv"),
        (["profile_csv", "{not json"], "not JSON"),
        (["profile_csv", "[1]"], "one JSON object"),
        (["profile_csv", "--arg", "path"], "NAME=VALUE"),
        (["profile_csv", "--url", "http://127.0.0.1:9/mcp"], "No MCP server answers"),
    ],
)
def test_a_call_that_cannot_be_made_gives_exit_status_2(
    service: RunningUp, arguments: list[str], explanation: str
) -> None:
    done = service.call(*arguments)

    assert done.returncode == 2
    assert explanation in done.stderr


def test_ctrl_c_cancels_the_task(service: RunningUp, long_call: tuple[subprocess.Popen[str], str]) -> None:
    call, task_id = long_call

    call.send_signal(signal.SIGINT)
    _, errors = call.communicate(timeout=300)

    assert call.returncode == 130, errors
    assert json.loads(service.run("inspect", "--json", task_id).stdout)["task"]["status"] == "cancelled"


def test_cancel_ends_the_task_of_another(
    service: RunningUp, long_call: tuple[subprocess.Popen[str], str]
) -> None:
    call, task_id = long_call

    done = service.run("cancel", task_id)
    _, errors = call.communicate(timeout=300)

    assert done.returncode == 0, done.stderr
    assert call.returncode == 1, errors
    assert "An operator cancelled the task." in errors
    history = json.loads(service.run("inspect", "--json", task_id).stdout)["log"]
    assert history[-1]["actor"] == "operator"


def test_list_and_inspect_show_a_task_and_its_history(service: RunningUp) -> None:
    service.call("profile_csv", "--arg", "path=people.csv")
    task_id = service.listed("--tool", "profile_csv", "--phase", "completed")[0]["task_id"]

    listed, shown = service.run("list"), service.run("inspect", task_id)

    assert task_hash(task_id) in listed.stdout
    assert "people.csv" in shown.stdout
    history = json.loads(service.run("inspect", "--json", task_id).stdout)["log"]
    assert [entry["target"] for entry in history] == ["pending", "running", "completed"]


@pytest.mark.parametrize("command", ["inspect", "cancel"])
def test_an_unknown_task_is_said_to_be_unknown(service: RunningUp, command: str) -> None:
    done = service.run(command, "00nonsense")

    assert done.returncode == 1
    assert "not found" in done.stderr.lower()


def test_doctor_finds_nothing_wrong(service: RunningUp) -> None:
    done = service.run("doctor", "--json")

    report = {entry["check"]: entry["findings"] for entry in json.loads(done.stdout)}
    assert done.returncode == 0, report
    assert not any(report.values()), report


def test_doctor_names_an_eviction_policy_that_loses_tasks_and_how_to_mend_it(
    service: RunningUp, redis_url: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("redis_server")
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            done = service.run("doctor", TASKS_REDIS_URL=redis_url)
        finally:
            client.config_set("maxmemory-policy", "noeviction")

    assert done.returncode == 1
    assert "allkeys-lru" in done.stdout
    assert "CONFIG SET maxmemory-policy noeviction" in done.stdout


def test_doctor_says_that_redis_is_full(
    service: RunningUp, redis_url: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("redis_server")
    with server.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
        try:
            done = service.run("doctor", TASKS_REDIS_URL=redis_url)
        finally:
            client.config_set("maxmemory", 0)

    assert done.returncode == 1
    assert "new tasks and answers are refused" in done.stdout, done.stderr
    assert "Raise maxmemory" in done.stdout
    assert not done.stderr


def test_doctor_says_which_tools_have_no_worker(service: RunningUp, redis_url: str) -> None:
    done = service.run("doctor", TASKS_REDIS_URL=redis_url)

    assert done.returncode == 1
    assert "No worker answers" in done.stdout
    assert "celery -A" in done.stdout


def test_doctor_warns_where_the_tasks_of_one_owner_can_take_every_worker(service: RunningUp) -> None:
    keys = {"TASKS_API_KEYS": "ann:mU3xQ9wzR7kYb2Lc,bob:Hn8vT4sJd6pGq1Wf"}

    in_turn = service.run("doctor", "--json", **keys)
    keys["TASKS_TAKE_TURNS"] = "false"
    shared = service.run("doctor", "--json", **keys)
    limited = service.run("doctor", "--json", TASKS_MAX_RUNNING_PER_OWNER="1", **keys)

    def said(done: subprocess.CompletedProcess[str]) -> str:
        (findings,) = (e["findings"] for e in json.loads(done.stdout) if e["check"] == "fairness")
        return json.dumps(findings)

    assert "2 owners share the workers" in said(shared)
    assert "set TASKS_MAX_RUNNING_PER_OWNER" in said(shared)
    assert said(in_turn) == said(limited) == "[]"


def test_list_says_who_waits_for_its_turn(redis_url: str, service: RunningUp) -> None:
    store = RedisTaskStore(redis_url, limits=Limits(running_per_owner={OTHER_QUEUES: 1}))
    store.create(creation())
    waiting = store.create(creation()).task
    store.close()

    listed = json.loads(service.run("list", "--json", TASKS_REDIS_URL=redis_url).stdout)
    shown = service.run("list", TASKS_REDIS_URL=redis_url).stdout

    assert [entry["task_id"] for entry in listed if entry["waits_for_slot"]] == [waiting.task_id]
    assert shown.count("Waits for a slot") == 1


def test_a_second_up_says_that_the_port_is_taken(service: RunningUp) -> None:
    done = service.run("up")

    assert done.returncode == 2
    assert "TASKS_PORT" in done.stderr
