"""The service that the official conformance suite is run against; only the public API is used.

Names, arguments and timing are those that the suite's scenarios call for; the last few tools are for clients
and load generators of others.
"""

from __future__ import annotations

import base64
import struct
import time
import wave
import zlib
from datetime import timedelta
from io import BytesIO
from typing import Annotated, Any

from mcp_types import (
    AudioContent,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

from tasks_service import (
    Cancelled,
    ClientCannot,
    Declined,
    Form,
    Header,
    ProtocolError,
    RequestContext,
    Roots,
    Sampling,
    TaskContext,
    TaskService,
    ToolError,
)

service = TaskService("Conformance fixture", version="1.0.0")
app = service.celery

PAUSE = 0.05
"""Seconds between two looks whether a sleeping tool is to stop, and between two reports."""

QUICK = timedelta(milliseconds=200)


class Name(BaseModel):
    name: str


class Color(BaseModel):
    color: str


class Ok(BaseModel):
    ok: bool


class Context(BaseModel):
    context: str


class Confirmation(BaseModel):
    confirm: bool


LOOSE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "confirm": {"type": "boolean"}},
}
"""The suite answers every question with the same two properties, whichever it was asked for."""


def _content(answer: Any) -> str:
    if isinstance(answer, Declined | Cancelled):
        return "nothing"
    return str(answer.model_dump() if isinstance(answer, BaseModel) else answer)


# --- content -----------------------------------------------------------------------------------------


def _png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\x00\xff\x00\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def _wav() -> bytes:
    """A hundredth of a second of silence."""
    file = BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(160))
    return file.getvalue()


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _image() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(_png()).decode(), mime_type="image/png")


def _resource(uri: str) -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type="text/plain", text="This is an embedded resource.")
    return EmbeddedResource(type="resource", resource=contents)


@service.tool(task="forbidden")
def about() -> str:
    """Say what this is: the first of the list, which the suite calls without arguments."""
    return "The fixture of the MCP conformance suite."


@service.tool()
def test_simple_text() -> str:
    """Return text."""
    return "This is a simple text response for testing."


@service.tool()
def test_image_content() -> list[ContentBlock]:
    """Return an image."""
    return [_image()]


@service.tool()
def test_audio_content() -> list[ContentBlock]:
    """Return a sound."""
    return [AudioContent(type="audio", data=base64.b64encode(_wav()).decode(), mime_type="audio/wav")]


@service.tool()
def test_embedded_resource() -> list[ContentBlock]:
    """Return a resource."""
    return [_resource("test://embedded-resource")]


@service.tool()
def test_multiple_content_types() -> list[ContentBlock]:
    """Return text, an image and a resource."""
    return [_text("Multiple content types test:"), _image(), _resource("test://mixed-content-resource")]


@service.tool()
def test_error_handling() -> str:
    """Fail with the author's own sentence."""
    raise ToolError("This tool intentionally returns an error for testing")


# --- arguments ---------------------------------------------------------------------------------------

CONTACT: dict[str, Any] = {
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
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@service.tool(input_schema=CONTACT)
def json_schema_2020_12_tool(**contact: Any) -> str:
    """Take what hints cannot say."""
    return f"Called with {sorted(contact)}"


@service.tool()
def test_custom_headers(message: Annotated[str, Header("Message")]) -> str:
    """Take an argument that clients repeat in a header."""
    return message


# --- resources, prompts, completion --------------------------------------------------------------------


@service.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@service.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """An image."""
    return _png()


@service.resource("test://template/{id}/data", mime_type="application/json")
def template_data(id: str) -> dict[str, Any]:  # noqa: A002 - the suite's name
    """Data with an id."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


@service.resource("test://watched-resource", mime_type="text/plain")
def watched_resource() -> str:
    """A text that clients may subscribe to."""
    return "This is the content of the watched resource."


@service.prompt()
def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@service.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@service.completion("test_prompt_with_arguments", "arg1")
def complete_arg1(value: str) -> list[str]:
    """What may be meant."""
    return [word for word in ("paris", "park", "party") if word.startswith(value)]


@service.prompt(name="test_prompt_with_embedded_resource")
def prompt_with_embedded_resource(resourceUri: str) -> list[ContentBlock | str]:  # noqa: N803 - the suite's name
    """A prompt with a resource in it."""
    return [_resource(resourceUri), "Please process the embedded resource above."]


@service.prompt()
def test_prompt_with_image() -> list[ContentBlock | str]:
    """A prompt with an image in it."""
    return [_image(), "Please analyse the image above."]


@service.prompt(ask={"user_context": Form("What context should the prompt use?", Context)})
def test_input_required_result_prompt(request: RequestContext) -> str:
    """A prompt that asks first."""
    return f"Use this context: {_content(request.answers['user_context'])}"


# --- reports -----------------------------------------------------------------------------------------


@service.tool()
def test_tool_with_progress(ctx: TaskContext) -> str:
    """Report progress three times."""
    for done in (0, 50, 100):
        ctx.progress(done, 100, f"{done} of 100")
        time.sleep(PAUSE)
    return "Done."


@service.tool(release_client=True)
def test_reconnection(ctx: TaskContext) -> str:
    """Sleep, so that the client is let go, and has to come back for the result."""
    ctx.sleep(1.5)
    return "Reconnection test completed successfully."


@service.tool()
def test_tool_with_logging(ctx: TaskContext) -> str:
    """Log three times."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        ctx.log("info", message)
        time.sleep(PAUSE)
    return "Done."


@service.tool()
def test_logging_tool(ctx: TaskContext) -> str:
    """Log, whether or not the client wants to hear it."""
    ctx.log("info", "Something happened.")
    return "Done."


@service.tool()
def test_trigger_tool_change() -> str:
    """Tell clients to read the list of tools again."""
    service.announce("tools")
    return "Announced."


@service.tool()
def test_trigger_prompt_change() -> str:
    """Tell clients to read the list of prompts again."""
    service.announce("prompts")
    return "Announced."


# --- questions ---------------------------------------------------------------------------------------


@service.tool()
def test_sampling(prompt: str, ctx: TaskContext) -> str:
    """Ask the client's model."""
    return f"LLM response: {ctx.sample(prompt, max_tokens=100).text}"


@service.tool()
def test_elicitation(message: str, ctx: TaskContext) -> str:
    """Ask a person for two texts."""
    schema = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "The user's answer"},
            "email": {"type": "string", "description": "The user's address"},
        },
        "required": ["username", "email"],
    }
    return f"User response: {_content(ctx.elicit(message, schema))}"


@service.tool()
def test_elicitation_sep1034_defaults(ctx: TaskContext) -> str:
    """Ask for one value of each type, all with a default."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "A name", "default": "John Doe"},
            "age": {"type": "integer", "description": "An age", "default": 30},
            "score": {"type": "number", "description": "A score", "default": 95.5},
            "status": {
                "type": "string",
                "description": "A status",
                "enum": ["active", "inactive", "pending"],
                "default": "active",
            },
            "verified": {"type": "boolean", "description": "Whether it is verified", "default": True},
        },
        "required": [],
    }
    return f"Elicitation completed: {_content(ctx.elicit('Please check the defaults.', schema))}"


@service.tool()
def test_elicitation_sep1330_enums(ctx: TaskContext) -> str:
    """Ask for choices, in each of their spellings."""
    values = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": f"Option {number}"} for number in (1, 2, 3)]
    schema = {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": values},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": values}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        },
        "required": [],
    }
    return f"Elicitation completed: {_content(ctx.elicit('Please choose.', schema))}"


@service.tool()
def test_missing_capability(ctx: TaskContext) -> str:
    """Need a client that has a model."""
    return ctx.sample("Say something.", max_tokens=20).text


@service.tool()
def test_streaming_elicitation(ctx: TaskContext) -> str:
    """Ask a person; of revision 2026-07-28, never by a request of its own."""
    return f"Answered: {_content(ctx.elicit('What is your name?', Name))}"


# --- questions in the answer to a call, 2026-07-28 ------------------------------------------------------


@service.tool(ask={"user_name": Form("What is your name?", Name)})
def test_input_required_result_elicitation(ctx: TaskContext) -> str:
    """Ask for a name before anything runs."""
    return f"Hello, {_content(ctx.answers['user_name'])}!"


@service.tool(ask={"confirm": Form("Please confirm", Ok)})
def test_input_required_result_request_state(ctx: TaskContext) -> str:
    """Come here only with a state that was verified."""
    return f"state-ok: {_content(ctx.answers['confirm'])}"


@service.tool(ask={"confirm": Form("Please confirm", Ok)})
def test_input_required_result_tampered_state(ctx: TaskContext) -> str:
    """Never come here with a state that was changed."""
    return _content(ctx.answers["confirm"])


@service.tool()
def test_input_required_result_sampling(ctx: TaskContext) -> str:
    """Ask the client's model."""
    return ctx.sample("What is the capital of France?", max_tokens=100, name="capital_question").text


@service.tool()
def test_input_required_result_list_roots(ctx: TaskContext) -> str:
    """Ask for the client's roots."""
    return ", ".join(str(root.uri) for root in ctx.list_roots(name="client_roots")) or "no roots"


@service.tool()
def test_input_required_result_multiple_inputs(ctx: TaskContext) -> str:
    """Ask a person, a model and the client at once."""
    answers = ctx.elicit_all(
        {
            "user_name": Form("What is your name?", Name),
            "greeting": Sampling("Write a greeting.", 50),
            "client_roots": Roots(),
        }
    )
    return (
        f"{answers['greeting'].text} {_content(answers['user_name'])}: {len(answers['client_roots'])} roots"
    )


@service.tool()
def test_input_required_result_multi_round(ctx: TaskContext) -> str:
    """Ask twice, one after the other."""
    name = ctx.elicit("Step 1: What is your name?", Name, name="step1")
    color = ctx.elicit("Step 2: What is your favourite colour?", Color, name="step2")
    return f"Answered: {_content(name)}, {_content(color)}"


@service.tool()
def test_input_required_result_capabilities(ctx: TaskContext) -> str:
    """Ask a person, or where the client has none to ask, its model."""
    try:
        return f"Answered: {_content(ctx.elicit('What is your name?', Name))}"
    except ClientCannot:
        return f"Answered: {ctx.sample('Make up a name.', max_tokens=20).text}"


# --- tasks -------------------------------------------------------------------------------------------


@service.tool(task="forbidden")
def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


@service.tool(poll_interval=QUICK)
def slow_compute(seconds: float, ctx: TaskContext, label: str = "") -> str:
    """Take some seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        ctx.check()
        time.sleep(min(left, PAUSE))
    return f"{label or 'computed'} after {seconds:g} s"


@service.tool(task="required", poll_interval=QUICK)
def failing_job(ctx: TaskContext) -> str:
    """Fail after a second, with the author's own sentence."""
    for _ in ctx.track(range(20), "about to fail"):
        time.sleep(PAUSE)
    raise ToolError("The job failed, as it always does.")


@service.tool(poll_interval=QUICK)
def protocol_error_job() -> str:
    """Fail with a JSON-RPC error."""
    raise ProtocolError(4050, "The job broke off.", {"reason": "by design"})


@service.tool(poll_interval=QUICK)
def confirm_delete(filename: str, ctx: TaskContext) -> str:
    """Ask before a file is deleted."""
    answer = ctx.elicit(f"Really delete {filename}?", Confirmation)
    if isinstance(answer, Declined | Cancelled) or not answer.confirm:
        return f"{filename} is kept."
    return f"{filename} is deleted."


@service.tool(poll_interval=QUICK)
def multi_input(ctx: TaskContext) -> str:
    """Ask two things at once."""
    answers = ctx.elicit_all({"name": Form("Who are you?", LOOSE), "confirm": Form("Go on?", LOOSE)})
    return f"Answered: {_content(answers['name'])}, {_content(answers['confirm'])}"


@service.tool(task="required", poll_interval=QUICK, ask={"user_name": Form("What is your name?", Name)})
def test_tool_with_task(ctx: TaskContext) -> str:
    """Ask for a name before there is a task."""
    answer = ctx.answers["user_name"]
    return f"Hello, {answer.name}!" if isinstance(answer, Name) else "Hello, whoever you are!"


# --- for clients and load generators of others --------------------------------------------------------


@service.tool(poll_interval=QUICK)
def noop(x: int) -> int:
    """Give back what came."""
    return x


@service.tool(poll_interval=QUICK)
def ask(ctx: TaskContext) -> str:
    """Ask once."""
    return f"Answered: {_content(ctx.elicit('What is your name?', Name))}"


@service.tool(poll_interval=QUICK)
def two_rounds(ctx: TaskContext) -> str:
    """Ask twice, one after the other."""
    first = ctx.elicit("What is your name?", Name, name="first")
    second = ctx.elicit("And your other name?", Name, name="second")
    return f"Answered: {_content(first)}, {_content(second)}"


@service.tool(task="required", poll_interval=QUICK)
def external_job(job_id: str, ctx: TaskContext) -> str:
    """Follow a job that another system runs, and hold nothing while it does."""
    submitted = ctx.step("submit", time.time)
    while (state := ctx.step("look", _state_of_job, submitted)) != "done":
        ctx.progress(JOB_STATES.index(state), len(JOB_STATES), f"{job_id} is {state}")
        ctx.sleep(0.5)
    return f"{job_id} is done."


JOB_STATES = ("queued", "running", "done")


def _state_of_job(submitted: float) -> str:
    """What the other system would say."""
    return JOB_STATES[min(int(time.time() - submitted), 2)]


@service.tool(task="required", poll_interval=QUICK)
def write_haiku(topic: str, ctx: TaskContext) -> str:
    """Have the client's model write a poem."""
    return f"Haiku:\n{ctx.sample(f'Write a haiku about {topic}.', max_tokens=50).text}"


@service.tool(poll_interval=QUICK)
def visit(ctx: TaskContext) -> str:
    """Ask for a visit to a page."""
    return "went" if ctx.elicit_url("Please read the terms.", "https://terms.example/1") is True else "stayed"
