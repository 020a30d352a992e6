"""Prompts, in both eras, and what they ask before they are written."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from mcp.client.client import Client
from mcp.server.mcpserver import AssistantMessage, Image, UserMessage
from mcp_types import EmbeddedResource, PromptMessage, TextContent, TextResourceContents
from pydantic import BaseModel, Field

from tasks_service import Declined, Form, ProtocolError, RequestContext, Settings, TaskService
from tasks_service.authoring.library import Library
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tests.kit.serving import registry
from tests.kit.sessions import SessionClient, is_answer, is_request
from tests.kit.wire import WITHOUT_TASKS, Reply, WireClient

ELICITATION: dict[str, Any] = {"elicitation": {"form": {}}}
elicitation = is_request("elicitation/create")


class Name(BaseModel):
    name: str = Field(min_length=2)


NAME = Form("What is your name?", Name)
ADA = {"action": "accept", "content": {"name": "Ada"}}


def introduce(greeting: str = "Hello") -> str:
    """A tool of the same name as a prompt."""
    return greeting


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(build_tool(introduce, ask={"user_name": NAME}))


@pytest.fixture
def library() -> Library:
    service = TaskService("Acme", settings=Settings(redis_url=None))

    @service.prompt(title="Summary")
    def summary(
        text: Annotated[str, Field(description="What is summed up.")], words: int = 100, style: str = "dry"
    ) -> str:
        """Sum a text up."""
        return f"Sum up in {words + 0} words, {style}: {text}"

    @service.prompt(name="talk")
    async def conversation() -> list[Any]:
        return [
            "Hello.",
            AssistantMessage("Good day."),
            UserMessage(Image(data=b"\x89PNG", format="png")),
            PromptMessage(role="assistant", content=TextContent(type="text", text="Nice.")),
            EmbeddedResource(
                type="resource",
                resource=TextResourceContents(uri="acme://readme", mime_type="text/plain", text="# Acme"),
            ),
        ]

    @service.prompt(ask={"user_name": NAME})
    def introduce(context: RequestContext, greeting: str = "Hello") -> str:
        """Write an introduction."""
        answer = context.answers["user_name"]
        return f"{greeting}, nobody!" if isinstance(answer, Declined) else f"{greeting}, {answer.name}!"

    @service.prompt()
    def broken() -> str:
        raise ValueError("secret db password=hunter2")

    @service.prompt()
    def refused() -> str:
        raise ProtocolError(4050, "Not on Sundays.")

    @service.prompt()
    def odd() -> Any:
        return 7

    return service.library


@pytest.fixture
def client(port: int) -> Iterator[WireClient]:
    """A client that can be asked."""
    with WireClient(port, capabilities={**WITHOUT_TASKS, **ELICITATION}) as client:
        yield client


def get(client: WireClient, prompt: str, arguments: Any = None, /, **more: Any) -> Reply:
    params = {"name": prompt, **({} if arguments is None else {"arguments": arguments}), **more}
    return client.request("prompts/get", params)


def text_of(result: Any) -> str:
    (message,) = result["messages"]
    assert message["role"] == "user"
    return str(message["content"]["text"])


# --- 2026-07-28 --------------------------------------------------------------------------------------


def test_prompts_are_advertised_and_nothing_else_that_is_not_there(client: WireClient) -> None:
    capabilities = client.request("server/discover").result["capabilities"]
    assert "prompts" in capabilities
    assert not {"resources", "completions"} & set(capabilities)


def test_the_list_has_prompts_with_their_arguments_in_the_order_of_their_names(client: WireClient) -> None:
    result = client.request("prompts/list").result
    listed = {prompt["name"]: prompt for prompt in result["prompts"]}
    assert list(listed) == ["broken", "introduce", "odd", "refused", "summary", "talk"]
    assert listed["summary"] == {
        "name": "summary",
        "title": "Summary",
        "description": "Sum a text up.",
        "arguments": [
            {"name": "text", "description": "What is summed up.", "required": True},
            {"name": "words", "required": False},
            {"name": "style", "required": False},
        ],
    }
    assert [argument["name"] for argument in listed["introduce"]["arguments"]] == ["greeting"]
    assert (result["ttlMs"], result["cacheScope"]) == (60_000, "public")


def test_a_cursor_that_was_never_given_out_is_refused(client: WireClient) -> None:
    assert client.request("prompts/list", {"cursor": "x"}).error["code"] == -32602


def test_arguments_are_texts_that_are_converted(client: WireClient) -> None:
    result = get(client, "summary", {"text": "War and Peace", "words": "12"}).result
    assert text_of(result) == "Sum up in 12 words, dry: War and Peace"
    assert result["description"] == "Sum a text up."
    assert result["resultType"] == "complete"


def test_messages_images_and_resources_are_written(client: WireClient) -> None:
    messages = get(client, "talk").result["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    contents = [message["content"] for message in messages]
    assert contents[0] == {"type": "text", "text": "Hello."}
    assert (contents[2]["mimeType"], base64.b64decode(contents[2]["data"])) == ("image/png", b"\x89PNG")
    assert contents[4]["resource"] == {"uri": "acme://readme", "mimeType": "text/plain", "text": "# Acme"}


@pytest.mark.parametrize(
    ("prompt", "arguments", "said"),
    [
        ("nothing", {}, "Unknown prompt: nothing"),
        ("summary", {}, "text: it is required"),
        ("summary", {"text": "x", "words": "many"}, "words: "),
        ("summary", {"text": "x", "word": "1"}, "word: there is no such argument; did you mean 'words'?"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_and_says_where(
    client: WireClient, prompt: str, arguments: Any, said: str
) -> None:
    error = get(client, prompt, arguments).error
    assert error["code"] == -32602
    assert said in error["message"]


def test_arguments_that_are_no_texts_are_refused(client: WireClient) -> None:
    assert get(client, "summary", {"text": 7}).error["code"] == -32602


@pytest.mark.parametrize("prompt", ["broken", "odd"])
def test_a_function_that_fails_tells_nobody_why(client: WireClient, prompt: str) -> None:
    reply = get(client, prompt)
    assert reply.error["code"] == -32603
    assert "hunter2" not in reply.body.decode()


def test_an_authors_own_error_reaches_the_caller(client: WireClient) -> None:
    assert get(client, "refused").error == {"code": 4050, "message": "Not on Sundays."}


def test_what_a_prompt_asks_is_answered_in_a_second_round(client: WireClient) -> None:
    asked = get(client, "introduce", {"greeting": "Hi"}).result
    assert asked["resultType"] == "input_required"
    assert "messages" not in asked
    assert not {"ttlMs", "cacheScope"} & set(asked)
    assert asked["inputRequests"]["user_name"]["method"] == "elicitation/create"

    answers = {"inputResponses": {"user_name": ADA, "other": ADA}, "requestState": asked["requestState"]}
    written = get(client, "introduce", {"greeting": "Hi"}, **answers).result

    assert written["resultType"] == "complete"
    assert text_of(written) == "Hi, Ada!"


def test_to_decline_is_an_answer_that_the_function_judges(client: WireClient) -> None:
    declined = {"user_name": {"action": "decline"}}
    assert text_of(get(client, "introduce", inputResponses=declined).result) == "Hello, nobody!"


def test_a_bad_answer_is_asked_for_again(client: WireClient) -> None:
    bad = {"user_name": {"action": "accept", "content": {"name": "A"}}}
    again = get(client, "introduce", inputResponses=bad).result
    assert again["resultType"] == "input_required"
    assert "content.name" in again["inputRequests"]["user_name"]["params"]["message"]


def test_an_error_for_an_answer_ends_the_request(client: WireClient) -> None:
    failed = {"user_name": {"error": {"code": -1, "message": "nobody is there"}}}
    reply = get(client, "introduce", inputResponses=failed)
    assert reply.error["code"] == -32602


def test_a_state_of_other_arguments_or_of_a_tool_is_refused(client: WireClient) -> None:
    of_prompt = get(client, "introduce", {"greeting": "Hi"}).result["requestState"]
    call = {"name": "introduce", "arguments": {"greeting": "Hi"}}
    of_tool = client.request("tools/call", call).result["requestState"]

    for state, greeting in ((of_prompt, "Hello"), (of_tool, "Hi"), (of_prompt + "x", "Hi")):
        answers = {"inputResponses": {"user_name": ADA}, "requestState": state}
        assert get(client, "introduce", {"greeting": greeting}, **answers).error["code"] == -32602


def test_a_client_that_cannot_be_asked_is_told_what_it_lacks(port: int) -> None:
    with WireClient(port, capabilities={}) as client:
        reply = get(client, "introduce")
    assert (reply.status, reply.error["code"]) == (400, -32021)
    assert reply.error["data"] == {"requiredCapabilities": {"elicitation": {"form": {}}}}


def test_the_header_must_name_what_the_body_names(client: WireClient) -> None:
    reply = client.request("prompts/get", {"name": "talk"}, mcp_name="summary")
    assert (reply.status, reply.error["code"]) == (400, -32020)


def test_the_sdks_client_gets_a_prompt(port: int) -> None:
    async def use() -> None:
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            result = await client.get_prompt("summary", {"text": "this"})
        (message,) = result.messages
        assert isinstance(message.content, TextContent)
        assert message.content.text == "Sum up in 100 words, dry: this"

    asyncio.run(use())


def test_without_prompts_their_methods_are_unknown(redis_url: str, port: int) -> None:
    with WireClient(port) as client:
        reply = client.request("resources/list")
    assert (reply.status, reply.error["code"]) == (404, -32601)


# --- 2025-11-25 --------------------------------------------------------------------------------------


def test_sessions_are_told_of_prompts_and_of_nothing_that_is_not_there(ports: list[int]) -> None:
    with SessionClient(ports) as client:
        capabilities = client.initialize()["capabilities"]
        assert client.error("resources/list")["code"] == -32601
    assert "prompts" in capabilities
    assert not {"resources", "completions"} & set(capabilities)


def test_sessions_list_and_get_in_their_own_words(session: SessionClient) -> None:
    assert set(session.result("prompts/list")) == {"prompts"}
    result = session.result("prompts/get", {"name": "summary", "arguments": {"text": "x"}}, at=1)
    assert set(result) == {"description", "messages"}
    assert text_of(result) == "Sum up in 100 words, dry: x"
    assert session.error("prompts/get", {"name": "nothing"})["code"] == -32602


def test_sessions_are_asked_on_the_stream_of_the_request(session: SessionClient) -> None:
    stream = session.open("prompts/get", {"name": "introduce"}, at=0)
    first = stream.find(elicitation)
    session.respond(first["id"], {"action": "accept", "content": {"name": "A"}}, at=1)
    again = stream.find(elicitation)
    session.respond(again["id"], ADA, at=1)

    assert "The last answer was refused" in again["params"]["message"]
    assert text_of(stream.find(is_answer)["result"]) == "Hello, Ada!"


def test_sessions_that_cannot_be_asked_are_refused_with_a_reason(ports: list[int]) -> None:
    with SessionClient(ports, capabilities={}) as client:
        client.initialize()
        error = client.error("prompts/get", {"name": "introduce"})
    assert error["code"] == -32602
    assert "form" in error["message"]


def test_a_session_without_streams_is_refused_with_a_reason(session: SessionClient) -> None:
    message = session.request("prompts/get", {"name": "introduce"}, accept="application/json")
    assert message["error"]["code"] == -32603
    assert "text/event-stream" in message["error"]["message"]
