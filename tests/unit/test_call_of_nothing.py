"""What `tasks-service call` says of a tool that is not there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import click
import pytest

from tasks_service.cli.call import find_tool
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
