"""Who has called, as tools are told it, and as it is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks_service import LOCAL_USER, Identity, TaskContext, TaskService
from tasks_service.crypto.envelope import NO_ENVELOPE
from tasks_service.domain.errors import CorruptRecord
from tasks_service.domain.task import NOT_RECORDED
from tasks_service.store.redis import codec
from tasks_service.testing import ToolRun
from tests.kit.serving import settings

OPEN = NO_ENVELOPE.of("owner", "task")
ADA = Identity(
    issuer="https://login.example.com",
    subject="ada",
    client_id="app-1",
    scopes=("reports:write", "tasks"),
    claims={"groups": ["a", {"b": None}]},
)


@pytest.fixture
def service(tmp_path: Path) -> TaskService:
    configured = settings("redis://127.0.0.1:1/0", tmp_path)
    service = TaskService("Acme", settings=configured)

    @service.tool
    def who(ctx: TaskContext) -> str:
        """Tell who has called."""
        return f"{ctx.caller.subject} of {ctx.caller.issuer}"

    @service.tool
    def pass_on(ctx: TaskContext, to_somebody_else: bool = False) -> str:
        """Let another tool tell."""
        return str(service.submit("who", owner=LOCAL_USER if to_somebody_else else None).result())

    return service


def test_a_tool_that_submits_another_passes_its_caller_on(service: TaskService) -> None:
    assert ToolRun(service, "pass_on", {}, caller=ADA).result == "ada of https://login.example.com"


def test_a_tool_that_names_another_owner_passes_that_one_on(service: TaskService) -> None:
    assert ToolRun(service, "pass_on", {"to_somebody_else": True}, caller=ADA).result == "user of local"


def test_a_test_that_names_no_caller_gets_one_whom_no_scopes_limit(service: TaskService) -> None:
    assert ToolRun(service, "who").result == "tester of test"


@pytest.mark.parametrize("caller", [ADA, Identity(issuer="api-key", subject="robot"), NOT_RECORDED])
def test_a_caller_is_read_back_as_it_was_written(caller: Identity) -> None:
    assert codec.decode_caller(OPEN, codec.encode_caller(caller)) == caller


def test_a_record_without_a_caller_has_one_who_is_allowed_nothing() -> None:
    caller = codec.decode_caller(OPEN, None)
    assert (caller.issuer, caller.subject) == ("", "")
    assert not caller.has_scope("tasks:call")


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "[]",
        "{}",
        '{"issuer": "a"}',
        '{"issuer": 1, "subject": "b"}',
        '{"issuer": "a", "subject": "b", "scopes": "tasks"}',
        '{"issuer": "a", "subject": "b", "claims": []}',
    ],
)
def test_a_caller_that_cannot_be_read_is_damage(stored: str) -> None:
    with pytest.raises(CorruptRecord):
        codec.decode_caller(OPEN, stored)


def test_a_name_that_only_a_newer_release_knows_is_passed_over() -> None:
    stored: dict[str, Any] = {**json.loads(codec.encode_caller(ADA)), "newer": True}
    assert codec.decode_caller(OPEN, json.dumps(stored)) == ADA
