"""What `tasks-service call` says of a tool or a task that is not there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from tasks_service.cli.call import call, find_tool
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.domain.task import Owner
from tasks_service.domain.tools import COMPANION_TOOLS


def said(name: str, *tools: str) -> str:
    async def listed() -> list[SimpleNamespace]:
        return [SimpleNamespace(name=tool) for tool in (*tools, *COMPANION_TOOLS)]

    with pytest.raises(click.UsageError) as refused:
        asyncio.run(find_tool(SimpleNamespace(tools=listed), name))
    return refused.value.message


def test_the_nearest_name_is_told_else_all_but_those_that_every_service_has() -> None:
    assert said("rendr", "render", "release").endswith("Did you mean 'render'?")
    assert said("paint", "render", "release").endswith("It has: render, release.")


def test_a_front_end_that_lists_none_waits_for_a_worker() -> None:
    assert "once a worker has announced them" in said("render")


def test_a_task_is_resumed_by_its_id_and_whoever_gives_its_short_name_is_told_where_that_is() -> None:
    name = task_hash(new_task_id(Owner("alice")))

    refused = CliRunner().invoke(call, ["release", "--resume", name])

    assert refused.exit_code == 2
    assert f"`tasks-service inspect {name}` shows it" in refused.output
