"""The pages for newcomers, followed to the letter: files copied, commands typed, outputs compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.pages import ROOT, Reader, blocks, commands, is_shown
from tests.kit.servers import RedisServer, free_port
from tests.kit.waiting import wait_until

from .running_up import FOREIGN

README, PAGE = ROOT / "README.md", ROOT / "docs/first-ten-minutes.md"
BROKER = "redis://localhost:6379/0"
INSTALLS = ("pip ", "python -m venv", "front-end/bin/pip")

Follow = Callable[[Path, str, str], Reader]


@pytest.fixture
def follow(tmp_path: Path, module_redis: RedisServer) -> Iterator[Follow]:
    """Follows a page from one heading up to another; what was installed before is this environment."""
    readers: list[Reader] = []

    def start(page: Path, beginning: str, end: str) -> Reader:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        env = {**inherited, "TASKS_PORT": str(free_port()), "FLOWER_PORT": str(free_port())}
        reader = Reader(page, tmp_path, env, {BROKER: module_redis.url})
        readers.append(reader)
        follow_to(reader, beginning, end)
        return reader

    yield start
    for reader in readers:
        reader.ends()


def follow_to(reader: Reader, beginning: str, end: str) -> None:
    """Do what the page says between two headings."""
    lines = reader.page.read_text(encoding="utf-8").splitlines()
    first, last = lines.index(beginning) + 1, lines.index(end) + 1
    printed = ""
    for block in blocks(reader.page):
        if not first < block.line < last:
            continue
        if block.language == "python" and block.file:
            reader.copies(block)
        elif block.language == "sh" and block.text.startswith("tasks-service up"):
            reader.starts(block)
            wait_until(lambda: "ready: MCP" in reader.said() or reader.has_ended(), reader.said)
        elif block.language == "sh" and not block.text.startswith(INSTALLS):
            printed = reader.types(block)
        elif block.language == "text":
            assert is_shown(printed, block.text), f"{block.where}: {printed}\n{reader.said()}"


def test_the_page_for_existing_celery_apps_leads_to_a_first_result(follow: Follow) -> None:
    follow(PAGE, "# Your first ten minutes with an existing Celery app", "## 5. Let a model call it")


def test_starting_from_nothing_leads_to_a_first_result(follow: Follow) -> None:
    reader = follow(README, "# Tasks Service", "## You have a Celery app")
    follow_to(reader, "## You start from nothing", "## How it works")


def test_what_the_readme_says_to_type_into_a_celery_app_is_what_the_page_says() -> None:
    of_page = [command.words for command in commands(PAGE)]
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## You have a Celery app") : text.index("## You start from nothing")]
    lines = [line.split() for line in section.splitlines() if line.startswith("tasks-service ")]
    assert lines and all(tuple(line) in of_page for line in lines)
    (module,) = [block.text for block in blocks(README, "python") if block.file == "shop/service.py"]
    (longer,) = [block.text for block in blocks(PAGE, "python") if block.file == "shop/service.py"]
    assert set(module.splitlines()) - {"from tasks_service import TaskService"} <= set(longer.splitlines())
