"""What tools ask, answered by `tasks-service call`: in a terminal, or by what was given to it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tasks_service.domain.task import Phase

from .running_up import REPOSITORY, RunningUp


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    app = {"TASKS_APP": "tests.conformance.fixture:service"}
    running = RunningUp(tmp_path_factory.mktemp("asking"), **app).start()
    yield running
    assert running.stop() == 0, running.text()


class Terminal:
    """A command with a terminal of its own, and somebody who types."""

    def __init__(self, service: RunningUp, *arguments: str) -> None:
        self.output = ""
        self._here, there = pty.openpty()
        self.process = subprocess.Popen(
            service.command(*arguments),
            cwd=service.directory,
            env={**service.env, "TERM": "dumb", "COLUMNS": "200", "PYTHONPATH": str(REPOSITORY)},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)

    def reads(self, text: str) -> None:
        """Wait until the terminal shows a text that was not shown before."""
        end = time.monotonic() + 120
        while text not in self.output:
            assert time.monotonic() < end, self.output
            self.output += os.read(self._here, 4096).decode(errors="replace")
        self.output = self.output.partition(text)[2]

    def types(self, keys: str) -> None:
        os.write(self._here, keys.encode())

    def ends(self) -> int:
        return self.process.wait(120)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._here)


StartCall = Callable[..., Terminal]


@pytest.fixture
def call(service: RunningUp) -> Iterator[StartCall]:
    """Starts `call` with a terminal."""
    terminals: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        terminals.append(Terminal(service, "call", *arguments))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def test_a_question_is_asked_in_the_terminal(call: StartCall) -> None:
    terminal = call("ask")

    terminal.reads("What is your name?")
    terminal.reads("[text]: ")
    terminal.types("Ada\n")
    terminal.reads("Answered: {'name': 'Ada'}")

    assert terminal.ends() == 0


def test_what_cannot_be_read_is_asked_again(call: StartCall) -> None:
    terminal = call("confirm_delete", "--arg", "filename=a.txt")

    terminal.reads("Really delete a.txt?")
    terminal.reads("[y/n]: ")
    terminal.types("perhaps\n")
    terminal.reads("Please answer y or n.")
    terminal.types("y\n")
    terminal.reads("a.txt is deleted.")

    assert terminal.ends() == 0


def test_ctrl_d_declines(call: StartCall) -> None:
    terminal = call("ask")

    terminal.reads("[text]: ")
    terminal.types("\x04")
    terminal.reads("Answered: nothing")

    assert terminal.ends() == 0


@pytest.mark.parametrize(("keys", "outcome"), [("y", "went"), ("n", "stayed")])
def test_a_link_is_shown_and_agreed_to_or_not(call: StartCall, keys: str, outcome: str) -> None:
    terminal = call("visit")

    terminal.reads("https://terms.example/1")
    terminal.reads("Agree?")
    terminal.types(f"{keys}\n")
    terminal.reads(outcome)

    assert terminal.ends() == 0


def test_ctrl_c_at_a_question_cancels_the_task(service: RunningUp, call: StartCall) -> None:
    terminal = call("ask")

    terminal.reads("[text]: ")
    os.killpg(terminal.process.pid, 2)

    assert terminal.ends() == 130
    assert service.tasks(Phase.PARKED) == []


def test_what_is_asked_before_there_is_a_task_is_asked_in_the_terminal(call: StartCall) -> None:
    terminal = call("test_tool_with_task")

    terminal.reads("What is your name?")
    terminal.types("Alice\n")
    terminal.reads("Hello, Alice!")

    assert terminal.ends() == 0


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["ask", "--answer", "question.name=Ada"], "{'name': 'Ada'}"),
        (["ask", "--answer", 'question={"name": "Ada"}'], "{'name': 'Ada'}"),
        (["ask", "--answer", "question=decline"], "nothing"),
        (["ask", "--answer", 'question={"action": "cancel"}'], "nothing"),
        (
            ["two_rounds", "--answer", "second.name=B", "--answer", "first.name=A"],
            "{'name': 'A'}, {'name': 'B'}",
        ),
        (["multi_input", "--answer", "name.name=Ada", "--answer", "confirm.confirm=true"], "True"),
        (["confirm_delete", '{"filename": "a"}', "--answer", "question.confirm=false"], "a is kept"),
        (["test_tool_with_task", "--answer", "user_name.name=Alice"], "Hello, Alice!"),
        (["test_tool_with_task", "--answer", "user_name=decline"], "whoever"),
        (["visit", "--answer", "link=true"], "went"),
        (["visit", "--answer", "link=false"], "stayed"),
    ],
)
def test_questions_are_answered_by_what_was_given(
    service: RunningUp, arguments: list[str], shown: str
) -> None:
    done = service.call(*arguments)

    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_without_terminal_and_answer_the_task_waits_and_is_resumed_later(service: RunningUp) -> None:
    waiting = service.call("ask")

    assert waiting.returncode == 3
    assert "What is your name?" in waiting.stderr
    found = re.search(r"--resume (\S+)", waiting.stderr)
    assert found is not None, waiting.stderr
    done = service.call("ask", "--resume", found[1], "--answer", "question.name=Ada")
    assert done.returncode == 0, done.stderr
    assert "{'name': 'Ada'}" in done.stdout


def test_without_terminal_and_answer_nothing_is_made_of_a_call_that_asks_first(service: RunningUp) -> None:
    before = len(service.tasks())

    waiting = service.call("test_tool_with_task")

    assert waiting.returncode == 3
    assert "What is your name?" in waiting.stderr
    assert "No task was made" in waiting.stderr
    assert len(service.tasks()) == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ask", "--answer", 'question={"name": 7}'], "question.content.name"),
        (["test_tool_with_task", "--answer", 'user_name={"name": 7}'], "content.name"),
    ],
)
def test_a_given_answer_that_does_not_fit_is_not_sent_twice(
    service: RunningUp, arguments: list[str], problem: str
) -> None:
    done = service.call(*arguments)

    assert done.returncode == 3
    assert problem in done.stderr


@pytest.mark.parametrize("answer", ["name", "=x", "question=[1]"])
def test_an_answer_that_is_none_gives_exit_status_2(service: RunningUp, answer: str) -> None:
    before = len(service.tasks())

    done = service.call("ask", "--answer", answer)

    assert done.returncode == 2
    assert "--answer" in done.stderr
    assert len(service.tasks()) == before
