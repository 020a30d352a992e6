"""A model that follows a script, served over the two APIs that hosts speak: chat completions and responses.

It decides by nothing but what a model is shown: the prompt, the tools, and the texts of results. So what it
brings to an end, what it was shown was enough for. All of it is kept for the test to look at.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_NEXT = re.compile(r'call (task_result) with task_id \\*"([\w-]+)\\*"')
_TASK = re.compile(r'task_id \\*"([\w-]+)\\*"')
_ANSWER = re.compile(r"Answer ([\w-]+) with task_answer")


class Say(NamedTuple):
    """The model's last word."""

    text: str


class Call(NamedTuple):
    """A call that the model wants."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass
class Model:
    """What was asked of the model in a run of a host.

    Attributes:
        url: Where hosts find it.
        tools: The names of the tools that it was given last.
        results: The texts of the results, as it was shown them.
        calls: What it called.
    """

    url: str = ""
    tools: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def forget(self) -> None:
        """Begin another run."""
        self.tools, self.results, self.calls = [], [], []

    def decide(self, prompt: str, tools: Sequence[str], results: Sequence[str]) -> Say | Call:
        """Take the next step of the act that the prompt names."""
        if not tools:
            return Say("nothing to do")  # a host asks for a title, say
        self.tools, self.results = list(tools), list(results)
        step = _step(prompt, results)
        if isinstance(step, Call):
            self.calls.append(step)
            return step._replace(tool=self._named(step.tool))
        return step

    def _named(self, tool: str) -> str:
        """The name under which a host shows a tool: some put the server's in front."""
        (found,) = [name for name in self.tools if name == tool or re.fullmatch(rf".*[_./-]{tool}", name)]
        return found


def _step(prompt: str, results: Sequence[str]) -> Say | Call:
    found = re.search(r"ACT (\w+) ?([\w-]*)", prompt)
    assert found is not None, prompt
    act, task_id = found.groups()
    last = results[-1] if results else ""
    match act, len(results):
        case "resume", 0:
            return Call("task_result", {"task_id": task_id})
        case "begin" | "cancel", 0:
            return Call("endless" if act == "cancel" else "render", {})
        case "short", 0:
            return Call("add", {"left": 2, "right": 3})
        case _, 0:
            return Call(act, {})
        case "begin", 1:
            return Say(last)
        case "cancel", 1 if task := _TASK.search(last):
            return Call("task_cancel", {"task_id": task[1]})
    if (task := _TASK.search(last)) and (question := _ANSWER.search(last)):
        return Call("task_answer", {"task_id": task[1], "answers": {question[1]: {"name": "Ada"}}})
    if goes_on := _NEXT.search(last):
        return Call(goes_on[1], {"task_id": goes_on[2]})
    return Say(f"It says: {last}")


# --- what hosts send -------------------------------------------------------------------------------------


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _of_chat(body: Mapping[str, Any]) -> tuple[str, list[str], list[str]]:
    messages = body["messages"]
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    asked = [index for index in users if "ACT " in _text(messages[index]["content"])]
    last = asked[-1] if asked else users[-1]
    results = [_text(message["content"]) for message in messages[last:] if message["role"] == "tool"]
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    return _text(messages[last]["content"]), tools, results


def _of_responses(body: Mapping[str, Any]) -> tuple[str, list[str], list[str]]:
    items = body["input"]
    items = [{"role": "user", "content": items}] if isinstance(items, str) else items
    prompts = [_text(item["content"]) for item in items if item.get("role") == "user"]
    asked = [prompt for prompt in prompts if "ACT " in prompt] or prompts
    results = [_text(item["output"]) for item in items if item.get("type") == "function_call_output"]
    tools = []
    for tool in body.get("tools") or ():
        if tool["type"] == "function":
            tools.append(tool["name"])
        elif tool["type"] == "namespace":
            tools += [f"{tool['name']}/{inner['name']}" for inner in tool["tools"]]
    return asked[-1], tools, results


# --- what they are answered ------------------------------------------------------------------------------

_numbers = itertools.count(1)
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def _chat(step: Say | Call, *, streams: bool) -> Iterator[dict[str, Any]]:
    number = next(_numbers)
    content: dict[str, Any] = {"role": "assistant", "content": step.text if isinstance(step, Say) else None}
    if isinstance(step, Call):
        function = {"name": step.tool, "arguments": json.dumps(step.arguments)}
        content["tool_calls"] = [
            {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
        ]
    reason = "stop" if isinstance(step, Say) else "tool_calls"
    frame = {"id": f"chat-{number}", "created": 1, "model": "scripted"}
    if not streams:
        choice = {"index": 0, "message": content, "finish_reason": reason}
        yield {**frame, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
        return
    frame["object"] = "chat.completion.chunk"
    yield {**frame, "choices": [{"index": 0, "delta": content, "finish_reason": None}]}
    yield {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    yield {**frame, "choices": [], "usage": _USAGE}


def _response(step: Say | Call, *, streams: bool) -> Iterator[dict[str, Any]]:
    number = next(_numbers)
    if isinstance(step, Say):
        part = {"type": "output_text", "text": step.text, "annotations": []}
        item: dict[str, Any] = {"type": "message", "role": "assistant", "content": [part]}
    else:
        namespace, _, name = step.tool.rpartition("/")
        item = {"type": "function_call", "name": name, "arguments": json.dumps(step.arguments)}
        item["call_id"] = f"call_{number}"
        if namespace:
            item["namespace"] = namespace
    item |= {"id": f"item_{number}", "status": "completed"}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, **details}
    whole = {
        "id": f"response-{number}",
        "object": "response",
        "created_at": 1,
        "model": "scripted",
        "status": "completed",
        "output": [item],
        "usage": usage,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }
    if not streams:
        yield whole
        return
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    for place, event in enumerate(events):
        yield {**event, "sequence_number": place}


@contextmanager
def scripted() -> Iterator[Model]:
    """Serve the model on a port of this machine."""
    model = Model()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": "scripted", "object": "model"}]}
            self._send("application/json", json.dumps(listed).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chat = self.path.endswith("/chat/completions")
            step = model.decide(*(_of_chat if chat else _of_responses)(body))
            streams = bool(body.get("stream"))
            parts = list((_chat if chat else _response)(step, streams=streams))
            if not streams:
                self._send("application/json", json.dumps(parts[0]).encode())
                return
            events = [
                ("" if chat else f"event: {part['type']}\n") + f"data: {json.dumps(part)}\n\n"
                for part in parts
            ]
            self._send("text/event-stream", "".join([*events, "data: [DONE]\n\n" if chat else ""]).encode())

        def _send(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
