"""How long one task takes when nothing else goes on, and what a poll costs.

    python -m bench.latency [TASKS]

Starts a private Redis, one front end and one worker, calls `noop` TASKS times one after the other over HTTP,
and prints medians. Times are of this machine and this moment: compare, do not quote them alone.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redis

from tasks_service.local.ports import free_port
from tasks_service.local.redis_server import EmbeddedRedis

VERSION = "2026-07-28"
EXTENSION = "io.modelcontextprotocol/tasks"
POLLS = 2000


class Client:
    """Posts requests of revision 2026-07-28 over one connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._id = 0

    def request(self, method: str, params: dict[str, Any], name: str) -> dict[str, Any]:
        self._id += 1
        meta = {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "extensions": {EXTENSION: {}}},
        }
        message = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": {**params, "_meta": meta}}
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": method,
            "Mcp-Name": name,
        }
        self._connection.request("POST", "/mcp", json.dumps(message), headers)
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def create(self, tool: str, **arguments: Any) -> str:
        params = {"name": tool, "arguments": arguments}
        task_id: str = self.request("tools/call", params, tool)["taskId"]
        return task_id

    def wait(self, task_id: str, while_status: str = "working") -> dict[str, Any]:
        while (task := self.get(task_id))["status"] == while_status:
            time.sleep(0.0005)
        return task

    def get(self, task_id: str) -> dict[str, Any]:
        return self.request("tasks/get", {"taskId": task_id}, task_id)


class Stack(NamedTuple):
    """What runs: where the front end listens, where Redis is, and the processes' ids."""

    port: int
    redis_url: str
    web: int
    worker: int


@contextmanager
def stack() -> Iterator[Stack]:
    """A private Redis, a front end and a worker with one slot."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, closing_redis(directory) as url:
        port = free_port()
        env = {**os.environ, "TASKS_REDIS_URL": url, "TASKS_DATA_DIR": directory, "TASKS_PORT": str(port)}
        own = str(Path(sys.executable).parent)
        env["PATH"] = os.pathsep.join([own, env.get("PATH", "")])
        quiet: dict[str, Any] = {"env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        web = subprocess.Popen(["tasks-service", "serve", "--app", "bench.service:service"], **quiet)
        celery = ["celery", "-A", "bench.service:app", "worker", "--concurrency", "1"]
        worker = subprocess.Popen([*celery, "--without-mingle", "--without-gossip"], **quiet)
        try:
            _wait_until_ready(port)
            yield Stack(port, url, web.pid, worker.pid)
        finally:
            for process in (web, worker):
                process.terminate()
            for process in (web, worker):
                process.wait(20)


@contextmanager
def closing_redis(directory: str) -> Iterator[str]:
    server = EmbeddedRedis(Path(directory))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def _wait_until_ready(port: int) -> None:
    for _ in range(600):
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as probe:
                probe.request("GET", "/readyz")
                if probe.getresponse().status == 200:
                    break
        except OSError:
            pass
        time.sleep(0.05)
    client = Client(port)
    client.wait(client.create("noop", x=0))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(tasks: int) -> None:
    with stack() as (port, url, web, _):
        client = Client(port)
        creates, totals = [], []
        for number in range(tasks):
            started = time.perf_counter()
            task_id = client.create("noop", x=number)
            creates.append(time.perf_counter() - started)
            client.wait(task_id)
            totals.append(time.perf_counter() - started)
            time.sleep(0.01)
        cpu, started = _cpu_seconds(web), time.perf_counter()
        for _ in range(POLLS):
            client.get(task_id)
        elapsed, cpu = time.perf_counter() - started, _cpu_seconds(web) - cpu
        server = redis.Redis.from_url(url)
        keys = sum(1 for _ in server.scan_iter("ts:*:[tl]:*")) / (tasks + 1)
    print(f"create, 1 client             p50 {_ms(creates)} ms")
    print(f"idle to completed            p50 {_ms(totals)} ms")
    print(f"tasks/get, 1 client          {POLLS / elapsed:.0f}/s, {cpu / POLLS * 1000:.3f} ms CPU each")
    print(f"Redis keys of a finished task {keys:.1f}")


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.1f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
