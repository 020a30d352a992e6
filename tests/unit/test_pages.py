"""What a reader can copy from the documentation runs, or is at least what the code takes."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from celery import Celery

from tasks_service import BEAT_SCHEDULE, Settings, TaskService
from tasks_service.cli import COMMANDS
from tasks_service.domain.task import TaskStatus
from tasks_service.testing import ToolRun
from tests.kit.pages import PAGES, ROOT, Command, blocks, commands, run_as_one_module

README, OPERATORS = ROOT / "README.md", ROOT / "docs/guide-operators.md"
FIRST_MINUTES = ROOT / "docs/first-ten-minutes.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = f"tasks_service-{PROJECT['project']['version']}-py3-none-any.whl"
CERTIFICATES = "/etc/tasks/ca.pem"
SHELL = {
    *("export", "for", "git", "docker/users.sh", "redis-server", "redis-cli", "openssl", "celery", "python"),
    *("grep", "jq"),
}
"""Of what stands in shell blocks: what is not ours to judge."""


TYPED = [command for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", TYPED, ids=lambda command: f"{command.where} {command.words[0]}")
def test_a_command_that_a_page_shows_is_one_that_is_there(command: Command) -> None:
    words = list(command.words)
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        if name in ("TASKS_REDIS_URL", "TASKS_BROKER_URL") and "$" not in value:
            assert Settings(**{name.removeprefix("TASKS_").lower(): value.replace(CERTIFICATES, __file__)})
    match [Path(words[0]).name, *words[1:]] if words else []:
        case []:
            pass
        case ["tasks-service", name, *arguments]:
            with COMMANDS[name].load().make_context(name, arguments):
                pass
        case ["make", target, *_]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        case ["pip", "freeze", "--exclude-editable", ">", "pins.txt"]:
            pass
        case ["pip", "install", "--constraint", "pins.txt", wheel] | ["pip", "install", wheel]:
            file, _, extras = wheel.removesuffix("]").partition("[")
            assert file == WHEEL
            assert set(filter(None, extras.split(","))) <= set(PROJECT["project"]["optional-dependencies"])
        case _:
            assert words[0] in SHELL, command.where


def test_a_command_that_is_not_there_is_noticed() -> None:
    with pytest.raises(click.NoSuchOption):
        test_a_command_that_a_page_shows_is_one_that_is_there(
            Command("here", ("tasks-service", "list", "--everything"))
        )


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "json")], ids=lambda page: page.name)
def test_the_configuration_of_a_host_starts_a_command_that_is_there(page: Path) -> None:
    for block in blocks(page, "json"):
        (server,) = json.loads(block.text)["mcpServers"].values()
        assert Path(server["command"]).name == "tasks-service"
        name, *arguments = server["args"]
        with COMMANDS[name].load().make_context(name, arguments):
            pass


def test_the_image_of_a_shop_is_what_the_stack_expects() -> None:
    (block,) = blocks(OPERATORS, "dockerfile")
    assert f"RUN pip install {PROJECT['project']['name']}\n" in block.text
    (variable,) = re.findall(r"^ENV (\w+)=", block.text, re.MULTILINE)
    assert f"${{{variable}:-" in (ROOT / "docker/compose.yaml").read_text(encoding="utf-8")


def test_the_examples_of_the_readme_are_one_module() -> None:
    module = run_as_one_module(README, "studio", skip=("shop/service.py",))
    run = ToolRun(module["service"], "render", {"scene": "hall", "frames": 1})
    assert run.result == ["hall-0.png"]
    run = ToolRun(module["service"], "release", {"scene": "hall"})
    run.accept("question", agreed=True)
    assert run.result == "Released hall."


def test_the_examples_for_operators_are_one_module(tmp_path: Path) -> None:
    app = Celery("acme", broker="memory://")
    settings = Settings(redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path)
    service = TaskService("Acme", celery=app, settings=settings)
    module = run_as_one_module(OPERATORS, "acme.service", service=service, app=app)
    assert BEAT_SCHEDULE.keys() <= app.conf.beat_schedule.keys()
    assert [route.path for route in module["site"].routes] == ["/tasks"]


def test_the_examples_for_existing_celery_tasks_are_one_module() -> None:
    app = Celery("acme", broker="memory://")

    @app.task(name="acme.reindex")
    def reindex(index: str) -> str:
        return index

    @app.task(name="acme.resize")
    def resize(path: str) -> str:
        return path

    @app.task(name="acme.export")
    def export(path: str) -> str:
        return path

    given = {"TaskService": TaskService, "timedelta": timedelta, "app": app, "resize": resize}
    module = run_as_one_module(ROOT / "docs/guide-celery.md", "acme.service", **given)
    assert module["service"].tools.keys() >= {"reindex", "resize"}


RUN_BY = {
    "README.md": "unit/test_pages.py",
    "first-ten-minutes.md": "unit/test_pages.py",
    "guide-asking.md": "unit/test_guide_asking.py",
    "guide-authors.md": "unit/test_guide_authors.py",
    "guide-celery.md": "unit/test_pages.py",
    "guide-operators.md": "unit/test_pages.py",
    "guide-sign-in.md": "unit/test_guide_sign_in.py",
    "guide-submitting.md": "e2e/test_guide_submitting.py",
    "guide-testing.md": "unit/test_guide_testing.py",
}
"""Which file of tests runs the Python of a page, as one module."""


def test_no_page_has_python_that_no_test_runs() -> None:
    assert {page.name for page in PAGES if blocks(page, "python")} == RUN_BY.keys()
    assert all((ROOT / "tests" / file).exists() for file in RUN_BY.values())


class Shop:
    """The project of a reader who follows the page for existing Celery apps."""

    def __init__(self, directory: Path) -> None:
        (directory / "shop").mkdir()
        (directory / "shop/__init__.py").touch()
        self.rest: list[str] = []
        for block in blocks(FIRST_MINUTES, "python"):
            if block.file:
                (directory / block.file).write_text(block.text)
            else:
                self.rest.append(block.text)
        self.service: ModuleType = importlib.import_module("shop.service")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Shop(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_the_module_of_the_first_ten_minutes_has_two_tools_that_run(shop: Shop) -> None:
    run = ToolRun(shop.service.service, "count_letters", {"words": ["two"]})
    assert (run.status, run.result) == (TaskStatus.COMPLETED, {"two": 3})
    tool = shop.service.service.tools["resize"].definition
    assert (tool.queue, set(tool.input_schema["properties"])) == ("tasks", {"path", "width"})


def test_the_variants_of_the_first_ten_minutes_run(shop: Shop) -> None:
    app, package = shop.service.app, sys.modules["shop"]

    @app.task(name="catalogue.tasks.resize")
    def resize(path: str) -> str:
        return path

    class FlaskApp:
        extensions: dict[str, Any] = {"celery": Celery("flask", broker="memory://")}  # noqa: RUF012

    vars(package)["create_app"] = FlaskApp
    for example in shop.rest:
        exec(example, vars(shop.service))
    assert shop.service.app is FlaskApp.extensions["celery"] is shop.service.service.celery


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README.read_text(encoding="utf-8")))
    assert linked == {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")}


def layers(contract: str) -> list[str]:
    """The layers of an import contract, the packages that they are in left out."""
    (found,) = (
        one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["name"].startswith(contract)
    )
    return [layer.replace("tasks_service.", "") for layer in found["layers"]]


def test_contributors_are_shown_the_layers_that_are_checked() -> None:
    shown = [block.text.split("\n")[:-1] for block in blocks(ROOT / "CONTRIBUTING.md", "")]
    assert shown == [layers("Arrows point one way"), layers("The front end, from its application")]


def test_the_recording_shows_the_example_of_the_readme_and_is_small() -> None:
    recording = ROOT / "docs/session.svg"
    assert recording.stat().st_size < 300_000
    texts = ElementTree.parse(recording).getroot().iter("{http://www.w3.org/2000/svg}text")
    shown = {"".join(text.itertext()).strip() for text in texts}
    (example,) = (block.text for block in blocks(README, "python") if block.file == "studio.py")
    assert {line.strip() for line in example.splitlines()} - {""} <= shown, "make recording"
    assert any("ended with exit status 137; starting it again" in line for line in shown)
