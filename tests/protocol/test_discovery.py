"""What a client learns before it calls anything."""

from __future__ import annotations

from tests.kit.wire import WireClient


def test_discovery_names_the_server_its_version_and_the_extension(client: WireClient) -> None:
    result = client.request("server/discover").result

    assert {"2025-11-25", "2026-07-28"} <= set(result["supportedVersions"])
    assert result["capabilities"]["extensions"] == {"io.modelcontextprotocol/tasks": {}}
    assert "tasks" not in result["capabilities"]
    assert result["instructions"] == "Call the tools."
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "Test service"
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["version"] == "1.2.3"
    assert result["ttlMs"] > 0


def test_tools_are_listed_in_the_order_of_their_names_every_time(client: WireClient) -> None:
    first, second = (client.request("tools/list").result for _ in range(2))

    names = [tool["name"] for tool in first["tools"]]
    assert names == sorted(names)
    assert first == second
    assert (first["ttlMs"], first["cacheScope"], first["resultType"]) == (60_000, "public", "complete")
    assert "nextCursor" not in first


def test_the_list_is_the_same_for_clients_with_and_without_the_extension(
    client: WireClient, plain: WireClient
) -> None:
    assert client.request("tools/list").body == plain.request("tools/list").body


def test_a_listed_tool_has_its_title_description_annotations_and_schemas(client: WireClient) -> None:
    tools = {tool["name"]: tool for tool in client.request("tools/list").result["tools"]}

    add = tools["add"]
    assert (add["title"], add["description"]) == ("Addition", "Add two numbers.")
    assert add["annotations"] == {"readOnlyHint": True}
    assert add["inputSchema"]["required"] == ["left"]
    assert add["outputSchema"]["type"] == "integer"
    assert "execution" not in add


def test_output_schemas_are_bare_unless_the_result_may_be_null(client: WireClient) -> None:
    tools = {tool["name"]: tool for tool in client.request("tools/list").result["tools"]}

    assert tools["names"]["outputSchema"]["type"] == "array"
    assert set(tools["report"]["outputSchema"]["properties"]) == {"title", "pages"}
    assert set(tools["perhaps"]["outputSchema"]["properties"]) == {"result"}
