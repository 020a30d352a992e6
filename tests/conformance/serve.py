"""Serve the fixture on this machine until Ctrl-C: `python -m tests.conformance.serve --port PORT`.

With `--codeless`, the front end serves what the worker announces, and has nothing of the fixture's code.

A front end in single-user mode on a loopback address, a worker, and a private Redis unless `TASKS_REDIS_URL`
names one. Prints the URL of the MCP endpoint once a tool has been called there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tasks_service import Settings
from tasks_service.cli.up import line_printer
from tasks_service.client.service_client import connect
from tasks_service.domain.errors import TasksServiceError
from tasks_service.local.ports import refuse_taken
from tasks_service.local.procfile import ProcessSpec
from tasks_service.local.stack import Stack

HOST = "127.0.0.1"
SLOTS = 16
"""Tools that run at once: the suite leaves up to five of 60 s behind, and measures others meanwhile."""

WITH_APP = ProcessSpec(name="web", command="tasks-service serve --app tests.conformance.fixture:service")
CODELESS = ProcessSpec(name="web", command="tasks-service serve")
WORKER = ProcessSpec(
    name="worker",
    command=(
        "celery --app tests.conformance.fixture:app worker "
        f"--pool threads --concurrency {SLOTS} --without-mingle --without-gossip"
    ),
)
READY = re.compile(r"ready: MCP at (\S+)")
START_SECONDS = 120.0
CHECK_SECONDS = 0.1
STOP_SECONDS = 60
REPOSITORY = Path(__file__).parents[2]


def serve(port: int, *, codeless: bool = False) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        port: Of the front end.
        codeless: Whether it serves without the fixture's code.

    Raises:
        ConfigurationError: The port is taken, or there is no Redis to be had.
    """
    refuse_taken(HOST, port, "PORT")
    specs = (CODELESS if codeless else WITH_APP, WORKER)
    emit, stop = line_printer([spec.name for spec in specs]), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="conformance-server-") as directory:
        settings = Settings(host=HOST, port=port, data_dir=Path(directory))
        changes = {"TASKS_HOST": HOST, "TASKS_DATA_DIR": directory, "TASKS_API_KEYS": ""}
        stack = Stack(settings, specs, emit, changes=changes)
        try:
            stack.start()
            with ThreadPoolExecutor(1) as executor:
                announced = executor.submit(_announce, stack, stop)
                while not stop.wait(CHECK_SECONDS):
                    stack.processes.check()
                    if announced.done():
                        announced.result()
        finally:
            stop.set()
            stack.stop()


def _announce(stack: Stack, stop: threading.Event) -> None:
    """Say where to connect, once the whole way of a call has been gone."""
    while not stack.is_ready():
        if stop.wait(CHECK_SECONDS):
            return
    asyncio.run(_warm_up(stack.mcp_url))
    print(f"ready: MCP at {stack.mcp_url}", flush=True)


async def _warm_up(url: str) -> None:
    """Wait for the worker, and pay for what first calls load."""
    async with asyncio.timeout(START_SECONDS), connect(url) as client:
        while True:
            if "noop" in {tool.name for tool in await client.tools()}:
                break
            await asyncio.sleep(CHECK_SECONDS)
        await asyncio.gather(*(client.call("noop", {"x": number}) for number in range(SLOTS)))


@contextmanager
def serving(*, codeless: bool = False) -> Iterator[str]:
    """The fixture in processes of its own, on a free port; yields the URL of the MCP endpoint.

    Nothing that configures a service on this machine reaches it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TASKS_")}
    command = [sys.executable, "-m", "tests.conformance.serve", "--port", "0"]
    command += ["--codeless"] if codeless else []
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        try:
            yield _url(process, log)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _url(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    give_up = time.monotonic() + START_SECONDS
    while True:
        ended = process.poll() is not None
        log.seek(0)
        said = log.read().decode(errors="replace")
        if (ready := READY.search(said)) is not None:
            return ready[1]
        if ended or time.monotonic() > give_up:
            raise RuntimeError(f"The fixture did not start:\n{said}")
        time.sleep(CHECK_SECONDS)


def main() -> int:
    """Serve; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument(
        "--codeless", action="store_true", help="the front end has none of the fixture's code"
    )
    options = parser.parse_args()
    try:
        serve(options.port, codeless=options.codeless)
    except TasksServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
