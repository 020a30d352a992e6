"""S12: a gateway that reads headers, and this server, which reads the body, must not see two requests."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from .raw import ask, request_bytes

HEADER_MISMATCH = -32020

CALL: tuple[str, dict[str, Any]] = ("tools/call", {"name": "greet", "arguments": {"name": "Ada"}})
ROUTE: tuple[str, dict[str, Any]] = ("tools/call", {"name": "route", "arguments": {"region": "eu"}})
GET: tuple[str, dict[str, Any]] = ("tasks/get", {"taskId": "a" * 26})
UPDATE: tuple[str, dict[str, Any]] = ("tasks/update", {"taskId": "a" * 26, "inputResponses": {}})
CANCEL: tuple[str, dict[str, Any]] = ("tasks/cancel", {"taskId": "a" * 26})
READ: tuple[str, dict[str, Any]] = ("resources/read", {"uri": "res://large"})
PROMPT: tuple[str, dict[str, Any]] = ("prompts/get", {"name": "none"})


def encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


CHANGED: list[tuple[tuple[str, dict[str, Any]], dict[str, str | None]]] = [
    (CALL, {"mcp_method": None}),
    (CALL, {"mcp_method": ""}),
    (CALL, {"mcp_method": "tools/list"}),
    (CALL, {"mcp_method": "TOOLS/CALL"}),
    (CALL, {"mcp_method": "tools/call, tools/list"}),
    (CALL, {"mcp_method": "tools/call;x"}),
    (CALL, {"mcp_method": encoded("tools/list")}),
    (CALL, {"mcp_name": None}),
    (CALL, {"mcp_name": ""}),
    (CALL, {"mcp_name": "sleep"}),
    (CALL, {"mcp_name": "Greet"}),
    (CALL, {"mcp_name": "greet, sleep"}),
    (CALL, {"mcp_name": encoded("sleep")}),
    (CALL, {"mcp_name": "=?base64?!!?="}),
    (CALL, {"mcp_name": "=?base64?Z3JlZXQ"}),
    (CALL, {"mcp_protocol_version": None}),
    (CALL, {"mcp_protocol_version": "2025-11-25"}),
    (CALL, {"mcp_protocol_version": "2031-01-01"}),
    (CALL, {"mcp_protocol_version": "2026-07-28, 2025-11-25"}),
    (GET, {"mcp_name": "b" * 26}),
    (GET, {"mcp_name": "A" * 26}),
    (UPDATE, {"mcp_name": "b" * 26}),
    (CANCEL, {"mcp_name": "b" * 26}),
    (READ, {"mcp_name": "res://other"}),
    (READ, {"mcp_name": "RES://large"}),
    (PROMPT, {"mcp_name": "other"}),
    (ROUTE, {"mcp_param_region": None}),
    (ROUTE, {"mcp_param_region": "us"}),
    (ROUTE, {"mcp_param_region": "EU"}),
    (ROUTE, {"mcp_param_region": "eu, us"}),
    (ROUTE, {"mcp_param_region": encoded("us")}),
]

ADDED = [
    (CALL, "mcp-method: tools/call"),
    (CALL, "mcp-method: tools/list"),
    (CALL, "Mcp-Name: greet"),
    (CALL, "Mcp-Name: sleep"),
    (CALL, "mcp-protocol-version: 2026-07-28"),
    (CALL, "MCP-Protocol-Version: 2025-11-25"),
    (GET, f"mcp-name: {'b' * 26}"),
    (ROUTE, "mcp-param-region: us"),
]


@pytest.mark.parametrize(("request_", "headers"), CHANGED)
def test_a_header_that_says_something_else_is_refused(
    steady_port: int, request_: tuple[str, dict[str, Any]], headers: dict[str, str | None]
) -> None:
    answer = ask(steady_port, request_bytes(steady_port, *request_, **{**param_headers(request_), **headers}))

    assert (answer.status, answer.code) == (400, HEADER_MISMATCH)


@pytest.mark.parametrize(("request_", "header"), ADDED)
def test_a_header_that_is_there_twice_is_refused(
    steady_port: int, request_: tuple[str, dict[str, Any]], header: str
) -> None:
    sent = request_bytes(steady_port, *request_, **param_headers(request_))

    for place in (b"\r\nmcp-method:", b"\r\ncontent-length:"):  # before and behind the other
        answer = ask(steady_port, sent.replace(place, f"\r\n{header}".encode() + place, 1))
        assert (answer.status, answer.code) == (400, HEADER_MISMATCH)


@pytest.mark.parametrize("request_", [CALL, ROUTE, GET, READ])
def test_without_a_change_none_of_them_is(steady_port: int, request_: tuple[str, dict[str, Any]]) -> None:
    answer = ask(steady_port, request_bytes(steady_port, *request_, **param_headers(request_)))

    assert answer.status == 200 or answer.code != HEADER_MISMATCH


def param_headers(request_: tuple[str, dict[str, Any]]) -> dict[str, str | None]:
    return {"mcp_param_region": "eu"} if request_ is ROUTE else {}
