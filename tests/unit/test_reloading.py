"""Development: what counts as a change of the code, and what a supervisor does then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_service.local.procfile import environment, parse_procfile
from tasks_service.local.source_watch import LOOK_SECONDS, SourceWatch
from tasks_service.local.supervisor import Supervisor
from tests.kit.waiting import wait_until


class Author:
    """Somebody who edits files in a directory that is watched, at times that the test says."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, 0.0
        self.saves("acme/tools.py", "one")
        self.watch = SourceWatch(directory, [directory / "data"], lambda: self.now)

    def saves(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def looks(self) -> list[str]:
        self.now += LOOK_SECONDS
        return self.watch.changed()


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path)


def test_a_change_is_told_once_and_when_the_files_are_at_rest(author: Author) -> None:
    assert author.looks() == []
    author.saves("acme/tools.py", "one, two")
    assert author.looks() == []
    author.saves("acme/more.py", "three")
    assert author.looks() == []
    assert author.looks() == ["acme/more.py", "acme/tools.py"]
    assert author.looks() == author.looks() == []


def test_a_file_that_was_removed_is_a_change(author: Author) -> None:
    (author.directory / "acme/tools.py").unlink()
    assert author.looks() == []
    assert author.looks() == ["acme/tools.py"]


def test_files_are_not_looked_at_more_often_than_needed(author: Author) -> None:
    author.saves("acme/tools.py", "one, two")
    assert author.looks() == author.watch.changed() == author.watch.changed() == []


@pytest.mark.parametrize(
    "name", ["acme/notes.txt", ".git/hook.py", "acme/__pycache__/tools.py", "env/lib/site.py", "data/left.py"]
)
def test_what_is_not_the_authors_code_is_no_change(author: Author, name: str) -> None:
    author.saves("env/pyvenv.cfg", "")
    author.saves(name, "something")
    author.looks()
    assert author.looks() == []


PROCFILE = """
worker: sleep 60
web: sh -c 'cat CODE && [ "$(cat CODE)" != broken ] && exec sleep 60'
flower: sleep 60
"""


class Running:
    """A supervisor of processes that print what the code is when they start."""

    def __init__(self, directory: Path) -> None:
        self.lines: list[tuple[str, str]] = []
        specs = parse_procfile(PROCFILE.replace("CODE", str(directory / "code.py")))
        self.supervisor = Supervisor(
            specs, environment({}), lambda *line: self.lines.append(line), reloading=True
        )
        self.code = directory / "code.py"

    def says(self, name: str, text: str) -> None:
        def said() -> bool:
            self.supervisor.check()
            return any(who == name and text in line for who, line in self.lines)

        wait_until(said, lambda: str(self.lines))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    running.code.write_text("first\n")
    running.supervisor.start()
    yield running
    running.supervisor.stop()


def test_processes_start_again_with_the_code_as_it_is_then_and_flower_goes_on(running: Running) -> None:
    running.says("web", "first")
    running.code.write_text("second\n")
    running.supervisor.reload(["code.py"])
    running.says("web", "second")
    assert ("web", "starting again: code.py changed") in running.lines
    assert {name for name, line in running.lines if "starting again" in line} == {"web", "worker"}
    assert running.supervisor.returncode("flower") is None


def test_code_that_does_not_run_waits_for_the_next_change(running: Running) -> None:
    running.says("web", "first")
    running.code.write_text("broken\n")
    running.supervisor.reload(["code.py"])
    running.says("web", "ended with exit status 1; starts again when a file changes")
    running.code.write_text("third\n")
    running.supervisor.reload(["a.py", "b.py", "c.py", "d.py"])
    running.says("web", "starting again: a.py, b.py, c.py, ... changed")
    running.says("web", "third")


def test_without_a_change_nothing_starts_again(running: Running) -> None:
    import threading

    stop = threading.Event()
    asked: list[int] = []

    def changed() -> tuple[str, ...]:
        asked.append(1)
        if len(asked) == 3:
            stop.set()
        return ()

    running.supervisor.run(stop, changed)
    assert not any("starting again" in line for _, line in running.lines)
