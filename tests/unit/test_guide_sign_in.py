"""The guide "Signing in": its example runs, and its tables say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks_service import ConfigurationError, Identity, TaskContext, TaskService
from tasks_service.domain.scopes import SERVICE_SCOPES
from tasks_service.domain.tools import ToolDefinition
from tasks_service.settings import Settings
from tasks_service.testing import ToolRun
from tests.kit.pages import ROOT, run_as_one_module

GUIDE = ROOT / "docs/guide-sign-in.md"


@pytest.fixture
def service(tmp_path: Path) -> TaskService:
    """The service of the guide, with its tools."""
    service = TaskService("Acme", settings=Settings(redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path))
    given = {"service": service, "TaskContext": TaskContext}
    module = run_as_one_module(GUIDE, "acme.service", **given)
    assert [route.path for route in module["site"].routes][-1] == "/tasks"
    return service


def test_a_tool_of_the_guide_wants_more_and_knows_who_has_called(service: TaskService) -> None:
    definition = service.tools["publish"].definition
    assert ToolDefinition.from_document(definition.to_document()) == definition
    assert definition.scopes_of_calls == ("tasks:call", "reports:write")
    ada = Identity(issuer="https://login.example.com", subject="ada", scopes=("reports",))
    assert ada.has_scope("reports:write")
    published = ToolRun(service, "publish", {"title": "Sales"}, caller=ada)
    assert published.result == "Sales, published by ada"


def test_the_guide_has_every_scope() -> None:
    table = GUIDE.read_text(encoding="utf-8").partition("| scope | allows |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w:]+)` \|", table, re.MULTILINE) == [*SERVICE_SCOPES, "tasks"]


@pytest.mark.parametrize("scopes", ["reports:write", ["tasks:call"], ["tasks"], ["two words"], [7], {"a"}])
def test_scopes_that_cannot_be_meant_are_refused(service: TaskService, scopes: object) -> None:
    with pytest.raises(ConfigurationError, match="scopes="):

        @service.tool(scopes=scopes)  # type: ignore[arg-type]
        def another() -> str:
            return ""


def test_a_definition_whose_scopes_are_the_service_s_own_is_none() -> None:
    document = ToolDefinition(name="a", input_schema={}).to_document()
    with pytest.raises(ValueError, match="scopes cannot be"):
        ToolDefinition.from_document({**document, "scopes": ["tasks:read"]})
