"""Arguments that are repeated in headers, and schemas written by hand, from the author to the wire."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any

import pytest
from mcp.client.client import Client

from tasks_service import Header
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry
from tests.kit.sessions import SessionClient
from tests.kit.stored import ids_of
from tests.kit.wire import Reply, WireClient

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contact": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "required": ["name"],
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contact": {"const": "phone"}}, "required": ["contact"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def route(
    region: Annotated[str, Header("Region")],
    shard: Annotated[int, Header("Shard")] = 0,
    urgent: Annotated[bool, Header("Urgent")] = False,
) -> str:
    """Go somewhere."""
    return f"{region} {shard} {urgent}"


def contact(name: str, address: Any = None, **how: Any) -> str:
    """Get in touch."""
    return f"{name} {address} {how}"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(route, build_tool(contact, input_schema=SCHEMA))


def call(client: WireClient, arguments: dict[str, Any], **headers: str | None) -> Reply:
    return client.request("tools/call", {"name": "route", "arguments": arguments}, **headers)


def listed(client: WireClient, name: str) -> Any:
    tools = {tool["name"]: tool for tool in client.request("tools/list").result["tools"]}
    return tools[name]["inputSchema"]


def test_the_schema_says_which_arguments_are_repeated(client: WireClient, session: SessionClient) -> None:
    for properties in (
        listed(client, "route")["properties"],
        session.result("tools/list")["tools"][1]["inputSchema"]["properties"],
    ):
        assert [properties[name]["x-mcp-header"] for name in ("region", "shard", "urgent")] == [
            "Region",
            "Shard",
            "Urgent",
        ]


def test_a_call_whose_headers_say_what_its_body_says_is_let_in(
    plain: WireClient, busy_worker: Worker
) -> None:
    arguments = {"region": "eu", "shard": 3, "urgent": True}
    headers = {"mcp_param_region": "eu", "mcp_param_shard": "3", "mcp_param_urgent": "true"}
    assert call(plain, arguments, **headers).result["content"][0]["text"] == "eu 3 True"


def test_text_that_no_header_can_carry_is_written_in_base64(plain: WireClient, busy_worker: Worker) -> None:
    encoded = base64.b64encode("Zürich".encode()).decode()
    reply = call(plain, {"region": "Zürich"}, mcp_param_region=f"=?base64?{encoded}?=")
    assert reply.result["content"][0]["text"] == "Zürich 0 False"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"mcp_param_region": "us"},
        {"mcp_param_region": "=?base64?SGVsbG8?="},
        {"mcp_param_region": "=?base64?SGVs!!!bG8=?="},
        {"mcp_param_region": "eu", "mcp_param_shard": "4"},
    ],
)
def test_a_call_whose_headers_say_something_else_is_refused(
    client: WireClient, worker: Worker, headers: Any
) -> None:
    reply = call(client, {"region": "eu"}, **headers)
    assert (reply.status, reply.error["code"]) == (400, -32020)
    assert list(ids_of(worker.store)) == []


def test_the_sdks_client_sends_the_headers(port: int, busy_worker: Worker) -> None:
    async def use() -> None:
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            await client.list_tools()
            result = await client.call_tool("route", {"region": "Zürich", "shard": 7})
        assert [block.text for block in result.content] == ["Zürich 7 False"]

    asyncio.run(use())


def test_a_schema_that_the_author_wrote_is_listed_word_for_word(
    client: WireClient, session: SessionClient
) -> None:
    assert listed(client, "contact") == SCHEMA
    assert session.result("tools/list")["tools"][0]["inputSchema"] == SCHEMA


def test_the_function_gets_what_fits_the_schema(plain: WireClient, busy_worker: Worker) -> None:
    result = plain.call("contact", {"name": "Ada", "contact": "phone", "phone": "1"}).result
    assert result["content"][0]["text"] == "Ada None {'contact': 'phone', 'phone': '1'}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"email": "a@b"}, "name: it is required"),
        ({"name": "Ada", "contact": "phone", "email": "a@b"}, "phone: it is required"),
        ({"name": "Ada", "email": 7}, "email: 7 is not of type 'string'"),
        ({"name": "Ada", "email": "a@b", "address": {"street": 1}}, "address.street: "),
        ({"name": "Ada", "email": "a@b", "fax": "1"}, "fax: there is no such argument"),
    ],
)
def test_the_model_is_told_what_does_not_fit(
    plain: WireClient, worker: Worker, arguments: Any, said: str
) -> None:
    result = plain.call("contact", arguments).result
    assert result["isError"] is True
    assert said in result["content"][0]["text"]
    assert list(ids_of(worker.store)) == []
