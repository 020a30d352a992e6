"""What one message may cost, once it is received: a bounded time, a bounded memory, and a sentence."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tasks_service.authoring.tool import build_tool
from tasks_service.domain.limits import DEFAULT_LIMITS, MIB, Limits
from tasks_service.domain.tools import TaskSupport
from tasks_service.frontend.core.field_limits import fields_of
from tasks_service.frontend.transport.body import parse
from tasks_service.frontend.transport.message_limits import ANSWER_VALUES, ARGUMENT_MEMBERS, MESSAGE_VALUES
from tasks_service.frontend.transport.rejection import Rejection
from tests.kit.hostile import VALUES, replaced
from tests.kit.hostile import paths as paths_in
from tests.kit.servers import RedisServer, free_port
from tests.kit.serving import front_end_of, registry, settings
from tests.kit.sessions import SessionClient
from tests.kit.waiting import quickest, wait_until
from tests.kit.wire import WireClient

BAD_INPUTS = int(os.environ.get("TASKS_TEST_BAD_MESSAGES", "800"))
SEED = int(os.environ.get("TASKS_TEST_SEED", "13"))


def call(arguments: Any, **params: Any) -> Any:
    params = {"name": "echo", "arguments": arguments, **params}
    return {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params}


def refused(message: Any, limits: Limits = DEFAULT_LIMITS) -> Rejection:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    with pytest.raises(Rejection) as rejection:
        parse(body, limits, fields_of)
    assert rejection.value.status == 400
    return rejection.value


def cpu_to_refuse(body: bytes) -> float:
    """The CPU seconds that it takes to refuse a message."""
    before = time.thread_time()
    refused(body)
    return time.thread_time() - before


def accepted(message: Any) -> Any:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return parse(body, DEFAULT_LIMITS, fields_of)


# --- structure ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "where", "unit", "actual"),
    [
        ({"values": [1] * 10_001}, "params.arguments.values", "values", 10_002),
        ({"a": {"b": [[1] * 6_000, [1] * 6_000]}}, "params.arguments.a.b.1", "values", 12_004),
        ({"values": [{}] * 10_001}, "params.arguments.values", "values", 10_002),
        ({"v": {str(n): n for n in range(5_001)}}, "params.arguments.v", "members of an object", 5_001),
    ],
)
def test_arguments_of_too_many_values_are_refused_with_path_limit_and_number(
    arguments: Any, where: str, unit: str, actual: int
) -> None:
    found = refused(call(arguments))

    maximum = ARGUMENT_MEMBERS if unit == "members of an object" else DEFAULT_LIMITS.argument_values
    assert found.data == {"limit": where, "maximum": maximum, "actual": actual, "unit": unit}
    assert found.message == f"Over the limit: {where}: {actual} {unit}, at most {maximum} allowed"
    assert found.request_id == 3


def test_arguments_of_as_many_values_as_are_allowed_are_accepted() -> None:
    accepted(call({"values": [1] * (DEFAULT_LIMITS.argument_values - 1)}))
    accepted(call({"table": "1,2,3\n" * 100_000, "other": '{"a": [1, 2]}, ' * 10_000}))


@pytest.mark.parametrize(
    "message",
    [
        {"method": "initialize", "params": {"clientInfo": {"icons": [1] * 600_000}}},
        {"method": "tools/call", "params": {"inputResponses": {str(n): {} for n in range(120_000)}}},
        {"id": 1, "result": {"content": [1] * 501}},
        {"method": "tools/call", "params": {"inputResponses": {"a": {"content": [{}] * 499}}}},
        {"method": "prompts/get", "params": {"arguments": {str(n): n for n in range(2_000)}}},
        {"method": "subscriptions/listen", "params": {"notifications": {"taskIds": ["x"] * 2_000}}},
        [{"method": "ping"}] * 2_000,
    ],
)
def test_all_but_arguments_may_have_a_thousand_values(message: Any) -> None:
    found = refused(message)

    assert found.data["unit"] == "values"
    most = (MESSAGE_VALUES, ANSWER_VALUES, DEFAULT_LIMITS.argument_values + MESSAGE_VALUES)
    assert found.data["maximum"] in most


def test_a_batch_may_hold_no_more_than_one_message() -> None:
    each = call({"values": [1] * 6_000})

    accepted([each])
    assert refused([each, each]).data["unit"] == "values"


def test_a_message_of_far_too_many_values_is_refused_before_it_is_parsed() -> None:
    for body in (b"[" + b"[],{}," * 100_000 + b"1]", b'{"a":"b\\"",' * 200_000, b",," * MIB):
        assert refused(body).data["limit"] == "the message"
        assert quickest(lambda body=body: cpu_to_refuse(body), 0.1) < 0.1


def test_depth_is_named_with_its_path() -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}

    found = refused(call(deep))
    assert found.data["unit"] == "levels of nesting"
    assert found.message.startswith("Over the limit: params.arguments.a.a.a.")


# --- repeated names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"id": 1, "id": 2}', "id"),
        ('{"params": {"name": "echo", "name": "sleepy"}}', "name"),
        ('{"a": {"b": [{"c": 1, "c": 1}]}}', "c"),
        ('{"a": ":::", "b": {"x": 1, "x": 2}}', "x"),
        ('{"a": "\\"b\\": 1, ", "a": 2}', "a"),
        ('{"name": 1, "n\\u0061me": 2}', "name"),
        ('{"a": "\\\\", "b": 1, "b": ":"}', "b"),
        ('[{"a": 1}, {"a": 1, "a": 2}]', "a"),
    ],
)
def test_two_members_of_one_name_are_refused_by_name(text: str, name: str) -> None:
    message = refused(text.encode()).message

    assert f"an object has two members of the name {name!r}" in message


def test_names_may_be_repeated_in_other_objects_and_in_texts() -> None:
    for message in (
        {"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}]},
        {"a": '"a": 1, "a": 2', "b": "::::", "c": 'x\\"a\\":', "d": "\\", "e": '\\"'},
        {"d": "\\", "e": ": : :"},
        call({"text": '{"a": 1, "a": 2} : : :' * 1_000}),
    ):
        assert accepted(message) == message


def test_a_repeated_name_among_many_is_refused_without_a_long_search() -> None:
    pairs = ", ".join(f'"{index}": {{"a": ":"}}' for index in range(4_000))
    body = f'{{"method": "tools/call", "params": {{"arguments": {{{pairs}, "0": 1}}}}}}'.encode()

    assert "two members of one name" in refused(body).message
    assert quickest(lambda: cpu_to_refuse(body), 0.1) < 0.1


# --- a front end as a process, an honest client, and one that is not ------------------------------------


@dataclass
class FrontEnd:
    port: int
    process: subprocess.Popen[bytes]

    def peak_mib(self) -> float:
        """The most memory that the process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        """The time that its main thread, which has the event loop, has computed."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "the front end has ended"
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False


@pytest.fixture(scope="module")
def front_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    server, port = RedisServer(), free_port()
    directory = tmp_path_factory.mktemp("messages")
    command = [sys.executable, "-m", "tests.security.message_app", server.url, str(directory), str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    started = FrontEnd(port, process)
    try:
        wait_until(started.is_ready, "the front end is ready")
        yield started
    finally:
        process.kill()
        process.wait()
        server.close()


LOOPED: Any = 1
for _ in range(40):
    LOOPED = {"child": LOOPED}

CALLS: dict[str, tuple[str, Any]] = {
    "wrong numbers": ("ints", ["a"] * 240_000),
    "wrong numbers, as many as are allowed": ("ints", ["a"] * 9_990),
    "wrong arms": ("unions", ["a"] * 240_000),
    "wrong arms, as many as are allowed": ("unions", ["a"] * 9_990),
    "empty arms": ("unions", [{}] * 330_000),
    "empty arms, as many as are allowed": ("unions", [{}] * 9_990),
    "wrong items of a schema by hand": ("listed", ["a"] * 240_000),
    "wrong items, as many as are allowed": ("listed", ["a"] * 9_990),
    "a pattern with nested repetition": ("matched", "a" * 60 + "!"),
    "unique objects": ("unique", [{"a": index} for index in range(4_000)]),
    "unique items of two kinds": ("unique", [index if index % 2 else str(index) for index in range(6_000)]),
    "a union in a loop": ("looped", LOOPED),
    "right numbers, as many as are allowed": ("ints", [1] * 9_990),
}

ANSWERS = {"task_id": "x", "answers": {str(index): 1 for index in range(4_900)}}


def attacks(client: WireClient) -> dict[str, tuple[bytes, dict[str, str]]]:
    """The body and the headers of each."""
    messages = {
        name: client.message("tools/call", {"name": tool, "arguments": {"values": values}})
        for name, (tool, values) in CALLS.items()
    }
    messages["wrong answers to questions"] = client.message(
        "tools/call", {"name": "task_answer", "arguments": ANSWERS}
    )
    client_info = {
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "0", "icons": [1] * 600_000}
    }
    messages["wrong icons"] = client.message("tools/list", {}, **client_info)
    messages["wrong icons, as many as are allowed"] = client.message(
        "tools/list", {}, **{name: {**info, "icons": [1] * 900} for name, info in client_info.items()}
    )
    for number in (120_000, 490):
        messages[f"{number} wrong responses"] = client.message(
            "tools/call", {"name": "ints", "inputResponses": {str(index): {} for index in range(number)}}
        )
    reply = {"role": "user", "model": "m", "content": [{}] * 490}
    messages["wrong blocks of content, as many as are allowed"] = client.message(
        "tools/call", {"name": "ints", "inputResponses": {"a": reply}}
    )
    return {
        name: (json.dumps(message).encode(), client.headers(message["method"], message["params"]))
        for name, message in messages.items()
    }


def test_nobody_waits_for_long_while_any_of_them_is_answered(front_end: FrontEnd, measured: Any) -> None:
    with (
        WireClient(front_end.port) as attacker,
        WireClient(front_end.port) as honest,
    ):
        task_id = honest.task("greet", {"name": "Ada"})
        sent = attacks(attacker)
        for body, headers in sent.values():
            attacker.post(body, headers)
        before = front_end.peak_mib()
        longest, shares = dict[str, float](), dict[str, float]()
        for name, (body, headers) in sent.items():
            longest[name] = longest_poll(
                honest, task_id, lambda body=body, headers=headers: attacker.post(body, headers)
            )

            def share(body: bytes = body, headers: dict[str, str] = headers) -> float:
                before = front_end.cpu_seconds()
                attacker.post(body, headers)
                return front_end.cpu_seconds() - before

            shares[name] = quickest(share, 0.02, seconds=3)
        slowest = max(longest, key=lambda name: longest[name])
        costliest = max(shares, key=lambda name: shares[name])
        measured("S4", f"longest poll beside a hostile message: {longest[slowest] * 1000:.0f} ms ({slowest})")
        measured("S4", f"CPU of a hostile message: {shares[costliest] * 1000:.0f} ms ({costliest})")
        measured("S4", f"memory for all of them: {front_end.peak_mib() - before:.0f} MiB more")
        # While the loop computes, nobody else is answered; the rest of a wait is a busy machine's.
        assert shares[costliest] < 0.05, shares
        assert front_end.peak_mib() - before < 64


def longest_poll(honest: WireClient, task_id: str, attack: Any) -> float:
    """The longest that a poll took while something was sent and answered."""
    work = threading.Thread(target=attack)
    longest = 0.0
    work.start()
    while work.is_alive():
        before = time.monotonic()
        honest.get(task_id)
        longest = max(longest, time.monotonic() - before)
    work.join()
    return longest


def test_sessions_refuse_the_same(front_end: FrontEnd) -> None:
    with SessionClient([front_end.port]) as session:
        session.initialize()
        for params in (
            {"name": "ints", "arguments": {"values": [1] * 10_001}},
            {"name": "ints", "arguments": {}, "_meta": {"x": [1] * 1_001}},
        ):
            reply = session.post({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params})
            assert (reply.status, reply.json["id"], reply.json["error"]["code"]) == (400, 9, -32600)


# --- bad inputs, many of them ---------------------------------------------------------------------------


def greet(name: str, times: int = 1) -> str:
    """Say hello."""
    return name * times


def test_whatever_is_sent_is_answered_in_time_and_never_with_a_server_error(
    redis_url: str, tmp_path: Path, measured: Any
) -> None:
    # Some messages are harmless in the end, and a call without a task would wait for a worker.
    tools = registry(build_tool(greet, support=TaskSupport.REQUIRED))
    app = front_end_of(tools, settings(redis_url, tmp_path))
    before = resident_mib()
    slowest, statuses = asyncio.run(send_all(app, random.Random(SEED)))

    measured("S4", f"{BAD_INPUTS} bad messages: {statuses}, slowest {slowest:.2f} s, {SEED=}")
    measured("S4", f"{BAD_INPUTS} bad messages: {resident_mib() - before:.0f} MiB more")
    assert max(statuses) < 500, statuses
    assert slowest < 2
    assert resident_mib() - before < 64


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def send_all(app: Any, rng: random.Random) -> tuple[float, dict[int, int]]:
    slowest, statuses = 0.0, dict[int, int]()
    async with running(app):
        for body, headers in bad_requests(rng):
            before = time.monotonic()
            status = await sent(app, body, headers)
            slowest = max(slowest, time.monotonic() - before)
            statuses[status] = statuses.get(status, 0) + 1
    return slowest, statuses


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[None]:
    """Start an application, and end it, as a server does."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    work = asyncio.create_task(app({"type": "lifespan"}, told.get, said.put))
    for phase in ("startup", "shutdown"):
        await told.put({"type": f"lifespan.{phase}"})
        assert (await said.get())["type"] == f"lifespan.{phase}.complete"
        if phase == "startup":
            yield
    await work


async def sent(app: Any, body: bytes, headers: dict[str, str]) -> int:
    """Send a request without a socket; its status."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/mcp",
        "raw_path": b"/mcp",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
    }
    unread = [{"type": "http.request", "body": body, "more_body": False}]
    statuses = []
    gone = asyncio.Event()

    async def receive() -> Any:
        if unread:
            return unread.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            if message["headers"] and dict(message["headers"]).get(b"content-type") == b"text/event-stream":
                gone.set()

    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return statuses[0] if statuses else 0


METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tools/call", {"name": "greet", "arguments": {"name": "Ada", "times": 2}, "task": {"ttl": 1}}),
    ("tools/call", {"name": "task_answer", "arguments": {"task_id": "x", "answers": {"k": {}}}}),
    ("tools/list", {"cursor": "x"}),
    ("tasks/get", {"taskId": "00abc"}),
    ("tasks/update", {"taskId": "00abc", "inputResponses": {"a": {"action": "accept", "content": {"x": 1}}}}),
    ("resources/read", {"uri": "file:///a"}),
    ("prompts/get", {"name": "p", "arguments": {"a": "b"}}),
    (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "b"}},
    ),
    (
        "initialize",
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}},
    ),
    ("server/discover", {}),
    ("ping", {}),
)


def bad_requests(rng: random.Random) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Real requests with something wrong: a value of another kind somewhere, or bytes that are no JSON."""
    client = WireClient(1)
    for _ in range(BAD_INPUTS):
        method, params = rng.choice(METHODS)
        message = client.message(method, params)
        if rng.random() < 0.4:
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params)}
        for _ in range(rng.randint(1, 3)):
            message = replaced(message, rng.choice(list(paths_in(message)) or [()]), rng.choice(VALUES))
            if not isinstance(message, dict):
                break
        body = json.dumps(message).encode(errors="surrogatepass")
        if rng.random() < 0.3 and body:
            place = rng.randrange(len(body))
            body = (
                body[:place]
                + rng.choice([b"", b"\x00", b"\xff", b'"', b"{", b"]", b"\\", body[place:]])
                + body[place + 1 :]
            )
        headers = {**client.headers(method, params), "host": "127.0.0.1"}
        if rng.random() < 0.4:
            del headers["mcp-protocol-version"]
        yield body, headers
