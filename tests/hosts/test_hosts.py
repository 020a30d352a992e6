"""What models are shown by hosts that know no tasks is enough for them: see docs/hosts.md.

Each host is given a prompt by its user, and a model that follows a script (`model.py`): it acts on the texts
that it is shown, and on nothing else. The hosts are installed from lock files, so this has a target of its
own, `make hosts`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.kit.environments import NotInstallable
from tests.kit.servers import RedisServer, free_port
from tests.kit.waiting import wait_until
from tests.kit.workers import ProcessContainer, worker_node

from .hosts import HOSTS, Run, ask
from .model import Model, scripted

pytestmark = pytest.mark.hosts

MODULE = "tests.hosts.service"

ASKS_ITS_USER = "codex"
"""The one that declares elicitation: a question goes to its user, and the model need not answer."""

each_host = pytest.mark.parametrize("name", HOSTS)

Prompt = Callable[[str, str], str]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A front end and a worker."""
    with ExitStack() as stack:
        redis = RedisServer()
        stack.callback(redis.close)
        port, directory = free_port(), tmp_path_factory.mktemp("data")
        where = {"TASKS_REDIS_URL": redis.url, "TASKS_DATA_DIR": str(directory), "TASKS_PORT": str(port)}
        worker = worker_node(
            redis.url, app=MODULE, pool="threads", concurrency=8, TASKS_DATA_DIR=str(directory)
        )
        stack.callback(worker.teardown)
        command = [sys.executable, "-m", "tasks_service", "serve", "--app", MODULE]
        front_end = ProcessContainer("front end", command, where)
        stack.callback(front_end.teardown)

        def ready() -> bool:
            try:
                with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
                    return bool(response.status == 200)
            except (URLError, OSError):
                return False

        wait_until(ready, front_end.logs)
        assert worker.ready(), worker.logs()
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with scripted() as model:
        yield model


@pytest.fixture
def prompt(url: str, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Prompt:
    """Start a host with a prompt; what it prints."""

    def run(name: str, what: str) -> str:
        model.forget()
        try:
            return ask(HOSTS[name], Run(url, model.url, what, tmp_path_factory.mktemp("home")))
        except NotInstallable as reason:
            if os.environ.get("TASKS_TEST_HOSTS") == "required":
                pytest.fail(f"{name}: {reason}")
            pytest.skip(f"NOT TRIED: {name}: {reason}")

    return run


def called(model: Model) -> list[str]:
    """The tools that the model called, without repetitions in a row."""
    names = [call.tool for call in model.calls]
    return [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]


@each_host
def test_a_short_call_is_answered_with_its_result(name: str, prompt: Prompt, model: Model) -> None:
    said = prompt(name, "ACT short")

    assert called(model) == ["add"]
    assert "It says: " in said
    assert "5" in model.results[0]


@each_host
def test_a_call_that_becomes_a_task_comes_to_its_result(name: str, prompt: Prompt, model: Model) -> None:
    said = prompt(name, "ACT render")

    assert "is still running in the background" in model.results[0]
    assert called(model) == ["render", "task_result"]
    assert "the picture is finished" in said


def test_a_host_that_can_ask_its_user_does_so(prompt: Prompt, model: Model) -> None:
    prompt(ASKS_ITS_USER, "ACT survey")

    # Nobody is there, so the form is closed, and the tool goes on without an answer.
    assert called(model) == ["survey"]
    assert "Hello, whoever you are!" in model.results[0]


@pytest.mark.parametrize("name", [name for name in HOSTS if name != ASKS_ITS_USER])
def test_a_question_is_answered_by_the_model(name: str, prompt: Prompt, model: Model) -> None:
    said = prompt(name, "ACT survey")

    assert "waits for an answer to question: Your name?" in model.results[0]
    assert called(model)[:2] == ["survey", "task_answer"]
    assert "Hello, Ada!" in said


@each_host
def test_a_task_is_cancelled_by_the_model(name: str, prompt: Prompt, model: Model) -> None:
    prompt(name, "ACT cancel")

    assert called(model) == ["endless", "task_cancel"]
    assert "cancelled" in model.results[-1]  # as text, or as the report's status


@each_host
def test_a_result_is_there_after_the_host_was_restarted(name: str, prompt: Prompt, model: Model) -> None:
    prompt(name, "ACT begin")
    handle = re.search(r'task_id \\*"([\w-]+)', model.results[0])
    assert handle is not None

    said = prompt(name, f"ACT resume {handle[1]}")

    assert called(model) == ["task_result"]
    assert "the picture is finished" in said
