"""`tasks-service stdio` as desktop hosts start it: one command, real processes, a data directory."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import Implementation

from tasks_service import Settings
from tasks_service.cli.application import open_store
from tasks_service.cli.back_end import BEAT_AFTER_SECONDS
from tests.kit.pipes import PipeClient
from tests.kit.waiting import wait_until

from .running_up import FOREIGN, REPOSITORY, environment_of, running_pids

APP = "tests.e2e.talkative_app"
PROMPT_SECONDS = 2.0
NOISE_SECONDS = 20.0
"""What a busy machine may add to the time that an end takes."""

pytestmark = pytest.mark.timeout(300)


class Desktop:
    """A directory as a user's hosts share it, and the processes that they start."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.log = directory, directory / "stderr.log"
        self.settings = {"TASKS_DATA_DIR": str(directory / "data"), "PYTHONPATH": str(REPOSITORY)}
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return {**inherited, **self.settings}

    def start(self, *options: str) -> tuple[subprocess.Popen[bytes], PipeClient]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tasks_service", "stdio", "--app", APP, *options],
                cwd=self.directory,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert process.stdin is not None and process.stdout is not None
        self.started.append(process)
        return process, PipeClient(os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))

    def processes(self) -> set[int]:
        mark = f"TASKS_DATA_DIR={self.settings['TASKS_DATA_DIR']}".encode()
        return {pid for pid in running_pids() if mark in environment_of(pid)}

    def starts(self) -> dict[str, float]:
        """When each process of one host's was started, in seconds; wrappers and pool children left out."""
        found: dict[str, float] = {}
        for pid in self.processes():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                role = _role(words)
                if role:
                    seconds = int(fields[19]) / os.sysconf("SC_CLK_TCK")
                    found[role] = min(seconds, found.get(role, seconds))
        return found

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        for process in self.started:
            assert process.stdin is not None and process.stdout is not None
            if process.poll() is None:
                process.kill()
            process.wait(10)
            process.stdin.close()
            process.stdout.close()
        wait_until(lambda: sys.platform != "linux" or not self.processes(), self.text)


def _role(words: list[bytes]) -> str:
    """What a process is, by its command; empty for a wrapper."""
    if b"-I" in words:
        return ""
    names = {b"stdio": "stdio", b"back-end": "back-end", b"back-end-worker": "worker", b"beat": "beat"}
    return next((names[word] for word in words if word in names), "")


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Desktop]:
    desktop = Desktop(tmp_path)
    yield desktop
    desktop.close()


def end_of_input(process: subprocess.Popen[bytes], client: PipeClient) -> float:
    """End a server's input; the seconds that it took to end."""
    assert process.stdin is not None
    process.stdin.close()
    begun = time.monotonic()
    client.wait_for_disconnect()
    assert process.wait(60) == 0
    return time.monotonic() - begun


def call(client: PipeClient, identity: Any, tool: str, /, *, task: Any = None, **arguments: Any) -> None:
    as_task = {} if task is None else {"task": task}
    client.request(identity, "tools/call", name=tool, arguments=arguments, **as_task)


def test_one_command_serves_a_desktop_host_and_nothing_but_messages_is_on_stdout(desktop: Desktop) -> None:
    process, client = desktop.start()
    client.initialize()
    call(client, 1, "shout", word="hello")
    assert client.result(1)["content"][0]["text"] == "HELLO"
    client.request(2, "resources/read", uri="note://spoken")
    assert client.result(2)["contents"][0]["text"] == "spoken"

    call(client, 3, "rest", seconds=60)
    client.request(4, "ping")
    assert client.result(4) == {}
    took = end_of_input(process, client)

    assert took < PROMPT_SECONDS + NOISE_SECONDS
    assert client.rest() == []  # every line was a JSON-RPC message, or the reader would have failed
    assert all(line.startswith(b'{"jsonrpc"') for line in client.lines)
    said = desktop.text()
    for where in ("when the module is imported", "in the front end", "past a redirection", "by a child"):
        assert f"printed {where}" in said


def test_a_task_goes_on_after_the_next_start(desktop: Desktop) -> None:
    process, client = desktop.start()
    client.initialize()
    call(client, 1, "rest", task={}, seconds=1)
    task_id = client.result(1)["task"]["taskId"]
    end_of_input(process, client)

    process, client = desktop.start()
    client.initialize()
    client.request(1, "tasks/list")
    assert task_id in [task["taskId"] for task in client.result(1)["tasks"]]
    client.request(2, "tasks/result", taskId=task_id)
    assert client.result(2)["content"][0]["text"] == "rested"
    end_of_input(process, client)


def test_two_hosts_share_a_data_directory_and_the_second_takes_over(desktop: Desktop) -> None:
    first, one = desktop.start()
    second, two = desktop.start()
    for client in (one, two):
        client.initialize()
        call(client, 1, "shout", word="hello")
    assert one.result(1)["content"] == two.result(1)["content"]
    call(one, 2, "rest", task={}, seconds=0)
    task_id = one.result(2)["task"]["taskId"]

    end_of_input(first, one)
    two.request(2, "tasks/result", taskId=task_id)
    assert two.result(2)["content"][0]["text"] == "rested"
    call(two, 3, "shout", word="again")
    assert two.result(3)["content"][0]["text"] == "AGAIN"

    third, three = desktop.start()
    three.initialize()
    second.kill()  # not even a chance to say goodbye
    attempts = itertools.count(1)

    def taken_over() -> bool:
        # What is on its way in that moment is answered with "try again".
        call(three, identity := next(attempts), "shout", word="still")
        answer = three.answer(identity)
        if "error" in answer:
            assert answer["error"]["data"]["retryAfterMs"] > 0
            return False
        return bool(answer["result"]["content"][0]["text"] == "STILL")

    wait_until(taken_over)
    end_of_input(third, three)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_a_first_call_waits_for_is_started_first_and_beat_later(desktop: Desktop) -> None:
    process, client = desktop.start()
    client.initialize()
    call(client, 1, "shout", word="hello")
    assert client.result(1)["content"][0]["text"] == "HELLO"
    wait_until(lambda: "beat" in desktop.starts(), desktop.text)

    starts = desktop.starts()
    assert sorted(starts, key=starts.__getitem__) == ["stdio", "back-end", "worker", "beat"]
    assert starts["beat"] - starts["worker"] >= BEAT_AFTER_SECONDS - 0.1
    end_of_input(process, client)


def test_queues_that_are_named_reach_the_worker_and_where_nobody_asks_for_maintenance_there_is_no_beat(
    desktop: Desktop,
) -> None:
    process, client = desktop.start("--queues", "tasks")
    client.initialize()
    call(client, 1, "shout", word="hello")
    assert client.result(1)["content"][0]["text"] == "HELLO"
    with open_store(Settings(_env_file=None, data_dir=Path(desktop.settings["TASKS_DATA_DIR"]))) as store:
        wait_until(lambda: store.registry.read("Talkative").workers, desktop.text)
        (worker,) = store.registry.read("Talkative").workers
    assert worker.queues == {"tasks"}
    end_of_input(process, client)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_like_the_end_of_input(desktop: Desktop, number: int) -> None:
    process, client = desktop.start()
    client.initialize()
    call(client, 1, "rest", seconds=60)
    client.request(2, "ping")
    client.result(2)

    process.send_signal(number)
    begun = time.monotonic()

    assert process.wait(60) == 0
    assert time.monotonic() - begun < PROMPT_SECONDS + NOISE_SECONDS


def test_a_directory_that_cannot_be_used_is_said_on_stderr(desktop: Desktop, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    desktop.settings["TASKS_DATA_DIR"] = str(tmp_path / "file" / "data")
    process, client = desktop.start()
    assert process.wait(60) == 2
    assert client.rest() == []
    assert "set TASKS_DATA_DIR to a directory you own" in desktop.text()


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
def test_the_official_client_is_served_in_both_eras(desktop: Desktop, mode: str) -> None:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tasks_service", "stdio", "--app", APP],
        env=desktop.settings,
        cwd=desktop.directory,
    )

    async def talk() -> tuple[str | None, str]:
        with desktop.log.open("a") as log:
            # Under its own name it would be given a handle before the first worker has started.
            info = Implementation(name="desktop", version="0")
            async with Client(stdio_client(server, errlog=log), mode=mode, client_info=info) as client:
                result = await client.call_tool("shout", {"word": "hello"})
                return client.protocol_version, result.content[0].text  # type: ignore[union-attr]

    version, said = asyncio.run(talk())
    assert version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
    assert said == "HELLO"
