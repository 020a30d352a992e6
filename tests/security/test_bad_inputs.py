"""S4: tens of thousands of bad requests over TCP: each is refused, or its connection closed; nothing breaks.

`TASKS_TEST_SEED` plays one run again; `TASKS_TEST_BAD_INPUTS` says how many.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tasks_service.domain.limits import MIB
from tests.kit.wire import NAMED, WireClient

from .front_end import FrontEndProcess
from .raw import with_head

NUMBER = int(os.environ.get("TASKS_TEST_BAD_INPUTS", "500"))
AT_ONCE = 48
SILENCE = 0.3
"""Seconds after which an input is taken for an incomplete one, and nothing more is sent."""

HUNG = 10.0
"""Seconds after which an input has no answer that was answered in time before; the machine may be busy."""

GROWTH_BYTES = 64 * MIB
SAID: Final = {501, 503, 505}
"""Statuses from 500 on that say something of the request: 503 is that an address has too many connections."""

VALUES: Final[list[Any]] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**63,
    -(2**63),
    1e308,
    "",
    "x",
    "\0",
    "\ud7ff",
    "é" * 100,
    "x" * 5000,
    [],
    {},
    [[]],
    [{}],
    {"": {}},
    {"_meta": {}},
    [0] * 1000,
    {"a": {"b": {"c": []}}},
]

TEXTS: Final = [
    b"",
    b" ",
    b"\0",
    b"\r\n",
    b"\n",
    b"\r",
    b"\xff\xfe",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[" * 500,
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 400,
    b",",
    b":",
    b"null",
    b"\xed\xa0\x80",
]

HEADERS: Final = [
    "host: evil.example",
    "host: localhost",
    "origin: http://evil.example",
    "origin: null",
    "content-length: 5",
    "content-length: -1",
    "content-length: 99999999999999999999",
    "content-length: 0x10",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip",
    "content-type: text/plain",
    "content-encoding: br",
    "accept: text/html",
    "expect: 100-continue",
    "expect: miracles",
    "upgrade: websocket\r\nconnection: upgrade",
    "connection: close",
    "connection: x",
    "mcp-method: tasks/get",
    "mcp-name: x",
    "mcp-protocol-version: 1999-01-01",
    "mcp-protocol-version: 2025-11-25",
    "mcp-session-id: x",
    "last-event-id: x",
    "authorization: Bearer x",
    "cookie: a=b",
    "x: " + "a" * 20_000,
    "a b: c",
    ": c",
    "x",
    "x:\x01",
    "x: \x7f",
    " folded",
    "te: trailers",
]

LINES: Final = [
    "GET /mcp HTTP/1.1",
    "DELETE /mcp HTTP/1.1",
    "OPTIONS /mcp HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "PUT /mcp HTTP/1.1",
    "POST /mcp HTTP/1.0",
    "POST /mcp HTTP/2.0",
    "POST /mcp",
    "POST / HTTP/1.1",
    "POST //mcp HTTP/1.1",
    "POST /mcp/../mcp HTTP/1.1",
    "POST /%6dcp HTTP/1.1",
    "POST /mcp?a=b#c HTTP/1.1",
    "POST /mcp\t HTTP/1.1",
    "POST http://evil/mcp HTTP/1.1",
    "CONNECT a:1 HTTP/1.1",
    "TRACE /mcp HTTP/1.1",
    "post /mcp HTTP/1.1",
    "POST /readyz HTTP/1.1",
    "POST /mcp HTTP/1.1 x",
    "POST /\xfcmcp HTTP/1.1",
    "POST /" + "a" * 9000 + " HTTP/1.1",
]

METHODS: Final = [
    *NAMED,
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "server/discover",
    "completion/complete",
    "initialize",
    "ping",
    "notifications/cancelled",
    "no/such",
    "",
]


def message(dice: random.Random, client: WireClient) -> tuple[Any, dict[str, str]]:
    """A message that is well-formed, of a method with params that may fit it."""
    method = dice.choice(METHODS)
    params: dict[str, Any] = dice.choice(
        [
            {},
            {"name": "greet", "arguments": {"name": dice.choice(VALUES)}},
            {"uri": "res://none", "cursor": dice.choice(VALUES)},
            {"taskId": "a" * dice.choice([0, 1, 26, 500]), "inputResponses": {"a": dice.choice(VALUES)}},
            {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "a", "version": "0"},
            },
        ]
    )
    return client.message(method, params), client.headers(method, params)


def mutated(dice: random.Random, value: Any) -> Any:
    """A value of which one part, however deep, is another."""
    if dice.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return dice.choice(VALUES)
    if isinstance(value, list):
        at = dice.randrange(len(value))
        return [mutated(dice, each) if number == at else each for number, each in enumerate(value)]
    name = dice.choice(list(value))
    changed = {**value, name: mutated(dice, value[name])}
    if dice.random() < 0.2:
        changed[dice.choice(["", "x", "id", "__proto__", name.upper()])] = changed.pop(name)
    return changed


def cut(dice: random.Random, text: bytes) -> bytes:
    """Text with something put in, taken out or doubled somewhere."""
    begin = dice.randrange(len(text) + 1)
    end = min(len(text), begin + dice.choice([0, 0, 1, 1, 3, 20]))
    return text[:begin] + dice.choice([*TEXTS, text[begin:end] * 2]) + text[end:]


def bad_input(dice: random.Random, client: WireClient, port: int) -> bytes:
    """One request that something is wrong with, or everything."""
    kind = dice.random()
    if kind < 0.03:
        return dice.randbytes(dice.randrange(1, 300))
    content, headers = message(dice, client)
    content = mutated(dice, content)
    body = json.dumps(content).encode(errors="surrogatepass")
    if kind < 0.35:
        body = cut(dice, body)
    line = dice.choice(LINES) if dice.random() < 0.15 else "POST /mcp HTTP/1.1"
    head = with_head(line, {"host": f"127.0.0.1:{port}", **headers, "content-length": str(len(body))})
    if dice.random() < 0.3:
        added = dice.choice(HEADERS).encode("latin-1") + b"\r\n"
        at = head.index(b"\r\n") + 2
        head = head[:at] + added + head[at:]
    if dice.random() < 0.1:
        head = re.sub(rb"content-length: \d+", b"transfer-encoding: chunked", head)
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        if dice.random() < 0.5:
            body = cut(dice, body)
    whole = head + body
    return cut(dice, whole) if dice.random() < 0.15 else whole


async def first_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first line of an answer; a server that waits for more is told that there is none."""
    try:
        return await asyncio.wait_for(reader.readline(), SILENCE)
    except TimeoutError:
        writer.write_eof()
        return await reader.readline()


async def outcome(port: int, number: int, sent: bytes) -> int:
    """Send one input from one of many addresses; the status of the answer, 0 for none."""
    source = f"127.0.{1 + number % 7}.{1 + number % 251}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(sent)
        line = await first_line(reader, writer)
        if line.startswith(b"HTTP/1.1 100"):
            await reader.readline()
            line = await first_line(reader, writer)
        return int(line.split()[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


async def outcomes(port: int, seed: int) -> tuple[Counter[int], list[bytes]]:
    """What became of all inputs, and those that became something which must not be."""
    dice, found, wrong = random.Random(seed), Counter[int](), list[bytes]()
    numbers = iter(range(NUMBER))
    with WireClient(port) as client:

        async def some() -> None:
            for number in numbers:
                sent = bad_input(dice, client, port)
                try:
                    status = await asyncio.wait_for(outcome(port, number, sent), HUNG)
                except TimeoutError:
                    status = -1
                found[status] += 1
                if status == -1 or (status >= 500 and status not in SAID):
                    wrong.append(sent)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return found, wrong


@pytest.fixture
def front_end(steady_redis: str, tmp_path: Path) -> Iterator[FrontEndProcess]:
    process = FrontEndProcess(steady_redis, tmp_path)
    yield process
    process.close()


def test_bad_inputs_are_refused_and_leave_the_front_end_as_it_was(
    front_end: FrontEndProcess, measured: Callable[[str, str], None]
) -> None:
    seed = int(os.environ.get("TASKS_TEST_SEED", random.randrange(10**6)))
    asyncio.run(outcomes_of_a_few(front_end.port))
    memory, began = front_end.memory(), time.monotonic()

    found, wrong = asyncio.run(outcomes(front_end.port, seed))

    grown = front_end.memory() - memory
    told = ", ".join(f"{status or 'closed'}: {count}" for status, count in sorted(found.items()))
    measured(
        "S4",
        f"{NUMBER} in {time.monotonic() - began:.0f} s: {told}; {grown / MIB:.1f} MiB; seed {seed}",
    )
    assert not wrong, (seed, wrong[:3])
    assert front_end.is_alive()
    log = front_end.log()
    assert "Traceback" not in log, (seed, log[log.index("Traceback") :][:5000])
    assert grown < GROWTH_BYTES
    assert {400, 413, 415, 421, 431} & set(found) >= {400}
    with WireClient(front_end.port) as client:
        assert client.request("tools/list").status == 200


async def outcomes_of_a_few(port: int) -> None:
    """What a process takes for its first requests it keeps."""
    with WireClient(port) as client:
        dice = random.Random(0)
        for number in range(50):
            await outcome(port, number, bad_input(dice, client, port))
