"""The guides say what the code does: names, defaults, links and commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks_service.authoring.refusals import refusal_table
from tasks_service.authoring.tool_options import ToolOptions
from tasks_service.cli import COMMANDS
from tasks_service.oauth_settings import OAuthSettings
from tasks_service.settings import Settings
from tests.kit.pages import PAGES, ROOT, blocks
from workers.settings import ToolSettings

NOT_LITERAL = {
    "redis_url",
    "broker_url",
    "secret",
    "accepted_secrets",
    "owner_secret",
    "message_secret",
    "accepted_message_secrets",
    "encryption_keys",
    "encryption_keys_file",
    "api_keys",
    "api_keys_file",
    "audit_log",
    "metrics_port",
    "metrics_key",
    "allowed_hosts",
    "allowed_origins",
    "trusted_proxies",
    "tools_root",
    "reports_dir",
    "drain_delay",
    "calls_per_minute",
    "max_running_per_owner",
    "take_turns",
    "handle_after_by_client",
    *(name for name in OAuthSettings.model_fields if name != "oauth_owner_binding"),
}
"""Settings whose default is told in words."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_operators_guide_has_every_setting_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `TASKS_(\w+)` \| ([^|]+) \|", text_of("docs/guide-operators.md"), re.MULTILINE)
    )
    told = {name.lower(): default.strip().strip("`") for name, default in rows.items()}
    fields = {**Settings.model_fields, **ToolSettings.model_fields}
    assert set(told) == set(fields)
    for name, field in fields.items():
        if name not in NOT_LITERAL:
            assert told[name] == str(field.default), name


def test_the_operators_guide_has_every_variable_of_a_command() -> None:
    loaded = [command.load() for command in COMMANDS.values()]
    read = {str(option.envvar) for command in loaded for option in command.params if option.envvar}
    table = text_of("docs/guide-operators.md").partition("| read by |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| [^|]+ \| `(TASKS_\w+)` \|", table, re.MULTILINE))
    assert told == read


def test_the_authors_guide_has_every_option_of_a_tool() -> None:
    guide = text_of("docs/guide-authors.md")
    table = guide[guide.index("## All options") :]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(ToolOptions.__annotations__)


def test_the_state_diagram_is_that_of_the_code() -> None:
    subprocess.run([sys.executable, ROOT / "docs/draw_state_machine.py", "--check"], check=True, timeout=120)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"tasks-service ([a-z]+)\b", page.read_text(encoding="utf-8")))
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_is_python_that_imports_what_there_is(page: Path) -> None:
    examples = blocks(page, "python")
    of_the_reader = {example.file.partition("/")[0] for example in examples if example.file}
    for example in examples:
        for node in ast.walk(ast.parse(example.text)):
            if not isinstance(node, ast.ImportFrom) or node.level:
                continue
            if node.module and node.module.partition(".")[0] not in of_the_reader:
                exec(compile(ast.Module([node], type_ignores=[]), example.where, "exec"), {})


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = page if not path else (page.parent / path).resolve()
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_test_that_a_page_names_exists() -> None:
    there = {
        name
        for file in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"\bdef (test_\w+)", file.read_text(encoding="utf-8"))
    }
    for page in PAGES:
        named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
        assert named <= there, page.name


FAULTS = {"A": 8, "B": 17, "C": 12, "D": 6, "E": 6, "G": 4, "H": 2, "J": 2}
"""How many faults there are of each kind."""


def test_the_fault_matrix_has_every_fault_and_says_of_each_what_shows_it() -> None:
    page = text_of("docs/fault-matrix.md")
    rows = dict(re.findall(r"^\| ([A-J]\d+) \| .* \| ([^|]+) \|$", page, re.MULTILINE))
    assert list(rows) == [f"{kind}{number}" for kind, most in FAULTS.items() for number in range(1, most + 1)]
    for row, shown in rows.items():
        assert "`test_" in shown or "not shown" in shown, row


def test_the_guide_lists_what_is_refused_at_registration() -> None:
    """The table is `refusal_table()`; write it into the guide when this fails."""
    assert refusal_table() in text_of("docs/guide-authors.md")
