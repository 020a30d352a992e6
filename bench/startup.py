"""How long processes take to start, and how much memory they have then, beside a worker of Celery alone.

    python -m bench.startup [ROUNDS]

Starts, by turns, a worker of Celery with one task and nothing else, a worker of ours, a front end, commands,
and a desktop host's server whose first call is timed; prints medians, and what ours take of what Celery alone
takes. Quote the ratios: seconds are of this machine and this moment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tasks_service.local.ports import free_port, http_status
from tasks_service.local.redis_server import EmbeddedRedis

ROUNDS = 7
READY_SECONDS = 120.0
SETTLE_SECONDS = 1.0
"""After a process is ready, until its memory is read: pool children have come up by then."""

LAST = 2
FIRST_CALL = (
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "0"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
    {"jsonrpc": "2.0", "id": LAST, "method": "tools/call", "params": {"name": "noop", "arguments": {"x": 1}}},
)
"""What a host sends at its start, the last of it a call."""

TICKS = os.sysconf("SC_CLK_TCK")
Figures = dict[str, float]
WORKER = ["worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO"]


def main() -> None:
    """Measure, and print a table, or JSON with `--json`."""
    as_json = "--json" in sys.argv
    numbers = [argument for argument in sys.argv[1:] if argument != "--json"]
    rounds = int(numbers[0]) if numbers else ROUNDS
    with tempfile.TemporaryDirectory(prefix="startup-") as directory:
        redis = EmbeddedRedis(Path(directory))
        with redis:
            measured = _measure(rounds, redis.url, Path(directory))
    medians = {
        who: {name: statistics.median(one[name] for one in taken) for name in taken[0]}
        for who, taken in measured.items()
    }
    print(json.dumps({"medians": medians, "rounds": measured}) if as_json else _table(medians))


def _measure(rounds: int, url: str, directory: Path) -> dict[str, list[Figures]]:
    port = free_port()
    env = {
        # Compiled code of their own, as installed packages have, whatever this shell says of writing any.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(directory / "compiled"),
        "TASKS_REDIS_URL": url,
        "BENCH_BROKER": url.replace("unix://", "redis+socket://"),
        "TASKS_DATA_DIR": str(directory),
        "TASKS_HOST": "127.0.0.1",
        "TASKS_PORT": str(port),
    }
    celery, ours = [sys.executable, "-m", "celery"], [sys.executable, "-m", "tasks_service"]
    turns: dict[str, Callable[[], Figures]] = {
        "Celery alone: worker": lambda: _worker([*celery, "-A", "bench.raw_celery", *WORKER], env),
        "ours: worker": lambda: _worker([*celery, "-A", "bench.service", *WORKER], env),
        "ours: front end": lambda: _front_end([*ours, "serve", "--app", "bench.service"], port, env),
        "ours: front end without code": lambda: _front_end([*ours, "serve"], port, env),
        "ours: stdio, first call": lambda: _first_call([*ours, "stdio", "--app", "bench.service"], env),
        "ours: list": lambda: _command([*ours, "list"], env),
        "ours: --help": lambda: _command([*ours, "--help"], env),
    }
    taken: dict[str, list[Figures]] = {who: [] for who in turns}
    for number in range(rounds + 1):
        for who, measure in turns.items():
            figures = measure()
            if number:  # the first round compiles, and fills the page cache
                taken[who].append(figures)
    return taken


def _worker(command: list[str], env: Mapping[str, str]) -> Figures:
    with _started(command, env) as (process, log, began):
        seconds = _until(lambda: b" ready." in log.read_bytes(), process, began)
        cpu = _cpu(process.pid) + sum(map(_cpu, _children(process.pid)))
        time.sleep(SETTLE_SECONDS)
        children = _children(process.pid)
        return {
            "ready s": seconds,
            "CPU s": cpu,
            "RSS MiB": _memory(process.pid, "Rss"),
            "child RSS MiB": statistics.mean(_memory(child, "Rss") for child in children),
            "all PSS MiB": sum(_memory(one, "Pss") for one in (process.pid, *children)),
        }


def _front_end(command: list[str], port: int, env: Mapping[str, str]) -> Figures:
    with _started(command, env) as (process, _, began):
        seconds = _until(lambda: http_status("127.0.0.1", port, "/readyz") == 200, process, began)
        return {"ready s": seconds, "CPU s": _cpu(process.pid), "RSS MiB": _memory(process.pid, "Rss")}


def _first_call(command: list[str], env: Mapping[str, str]) -> Figures:
    """From the start of a desktop host's server, with a Redis and a worker of its own, to a call's result."""
    with tempfile.TemporaryDirectory(prefix="startup-") as directory:
        own = {name: value for name, value in {**os.environ, **env}.items() if name != "TASKS_REDIS_URL"}
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env={**own, "TASKS_DATA_DIR": directory},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"".join(json.dumps(one).encode() + b"\n" for one in FIRST_CALL))
        process.stdin.flush()
        answered = {}
        for line in process.stdout:
            answered[json.loads(line).get("id")] = time.monotonic() - began
            if LAST in answered:
                break
        figures = {"ready s": answered[LAST], "initialize s": answered[0], "tools/list s": answered[1]}
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        _wait_for_end_of(directory)
        return figures


def _wait_for_end_of(directory: str) -> None:
    """Wait for the processes behind a desktop host's server, which end after it."""
    mark = f"TASKS_DATA_DIR={directory}".encode()
    while any(mark in _environment(pid) for pid in Path("/proc").glob("[0-9]*")):
        time.sleep(0.05)


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def _command(command: list[str], env: Mapping[str, str]) -> Figures:
    began = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return {
        "ready s": time.monotonic() - began,
        "CPU s": usage.ru_utime + usage.ru_stime,
        "RSS MiB": usage.ru_maxrss / 1024,
    }


@contextmanager
def _started(
    command: list[str], env: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
    with tempfile.NamedTemporaryFile(prefix="startup-") as log:
        began = time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
        try:
            yield process, Path(log.name), began
        finally:
            process.terminate()
            process.wait(60)


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes], began: float) -> float:
    while not condition():
        if process.poll() is not None or time.monotonic() - began > READY_SECONDS:
            raise RuntimeError(f"{process.args!r} did not become ready")
        time.sleep(0.005)
    return time.monotonic() - began


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory(pid: int, kind: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no {kind}")


def _table(medians: Mapping[str, Figures]) -> str:
    base = medians["Celery alone: worker"]
    lines = []
    for who, figures in medians.items():
        told = []
        for name, value in figures.items():
            ratio = f" ({value / base[name]:.2f}x)" if who == "ours: worker" else ""
            told.append(f"{name} {value:.2f}{ratio}")
        lines.append(f"{who:30} " + "  ".join(told))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
