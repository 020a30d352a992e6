"""Run the official MCP conformance suite against the fixture: `python -m tests.conformance.run`.

Starts a private Redis, a front end and a worker, runs scenarios, prints a table and the counts, stops
everything. The suite needs Node 22; where the machine's own is older, npm brings one. Exit status: 0 if
nothing failed, 1 if something did, 2 if the suite cannot be had (which is never a success).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks_service.embedded import EmbeddedRedis
from tests.support import free_port

SUITE = "@modelcontextprotocol/conformance"
SUITE_VERSION = "0.2.0-alpha.12"
"""Pinned: earlier ones fail correct servers, later ones may ask for other things."""

NODE_MAJOR = 22
REPOSITORY = Path(__file__).parents[2]
FIXTURE = "tests.conformance.fixture"
SERVICE = f"{FIXTURE}:service"
WORKER_SLOTS = 8
"""The suite leaves up to five 60 s tools running at once."""

TASKS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
    "tasks-status-notifications",
)
PREFLIGHT = (
    "input-required-result-basic-elicitation",
    "input-required-result-request-state",
    "input-required-result-tampered-state",
    "input-required-result-missing-input-response",
    "input-required-result-ignore-extra-params",
    "input-required-result-validate-input",
    "input-required-result-result-type",
    "input-required-result-unsupported-methods",
)
SCENARIO_SECONDS = 60


class NoSuite(Exception):
    """The suite cannot be installed or run here; says why."""


# --- the suite ---------------------------------------------------------------------------------------


def suite_command(home: Path) -> list[str]:
    """The command that runs the suite, installed into `home` at first use.

    Raises:
        NoSuite: There is no npm, or it cannot install the suite.
    """
    home.mkdir(parents=True, exist_ok=True)
    script = home / "node_modules" / SUITE / "dist" / "index.js"
    packages = [] if _installed_version(home) == SUITE_VERSION else [f"{SUITE}@{SUITE_VERSION}"]
    node = _system_node() or str(home / "node_modules" / _node_package() / "bin" / "node")
    if not shutil.which(node):
        packages.append(f"{_node_package()}@{NODE_MAJOR}")
    if packages:
        _npm_install(home, packages)
    return [node, str(script)]


def _node_package() -> str:
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(os.uname().machine, "x64")
    return f"node-{sys.platform}-{machine}"


def _system_node() -> str | None:
    node = shutil.which("node")
    if node is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return node if int(version.lstrip("v").partition(".")[0] or 0) >= NODE_MAJOR else None


def _installed_version(home: Path) -> str:
    manifest = home / "node_modules" / SUITE / "package.json"
    return str(json.loads(manifest.read_text())["version"]) if manifest.exists() else ""


def _npm_install(home: Path, packages: Sequence[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoSuite("npm is not on PATH, and the suite is an npm package; install Node.js")
    # Installed together, so that npm does not take away what an earlier call has brought.
    wanted = [f"{SUITE}@{SUITE_VERSION}", *(package for package in packages if SUITE not in package)]
    command = [npm, "install", "--no-audit", "--no-fund", "--engine-strict=false", *wanted]
    (home / "package.json").touch()
    (home / "package.json").write_text('{"private": true}')
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoSuite(f"npm could not install {', '.join(wanted)}:\n{done.stderr.strip()}")


def run_scenario(command: Sequence[str], url: str, scenario: str) -> list[dict[str, Any]]:
    """The checks of a scenario; empty if it did not come to any."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as output:
        arguments = ["server", "--url", url, "--scenario", scenario, "-o", output]
        try:
            subprocess.run([*command, *arguments], capture_output=True, check=False, timeout=SCENARIO_SECONDS)
        except subprocess.TimeoutExpired:
            return []
        return [
            check
            for found in sorted(Path(output).glob("*/checks.json"))
            for check in json.loads(found.read_text())
        ]


# --- the service -------------------------------------------------------------------------------------


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Redis, front end and worker of the fixture; yields the URL of the MCP endpoint."""
    with EmbeddedRedis(directory) as redis:
        port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TASKS_")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "TASKS_REDIS_URL": redis.url,
            "TASKS_DATA_DIR": str(directory),
            "TASKS_PORT": str(port),
        }
        worker = ["-A", FIXTURE, "worker", "--pool", "threads", "--concurrency", str(WORKER_SLOTS)]
        commands = [
            [sys.executable, "-m", "tasks_service", "serve", "--app", SERVICE],
            [
                sys.executable,
                "-m",
                "celery",
                *worker,
                "--without-mingle",
                "--without-gossip",
                "--loglevel",
                "INFO",
            ],
        ]
        with (directory / "log").open("ab") as log:
            processes = [
                subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
                for command in commands
            ]
            try:
                _await_ready(port, directory / "log", processes)
                yield f"http://127.0.0.1:{port}/mcp"
            finally:
                _stop(processes)


def _await_ready(port: int, log: Path, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    give_up = time.monotonic() + 60
    while not (_answers(f"http://127.0.0.1:{port}/readyz") and " ready." in log.read_text(errors="replace")):
        if time.monotonic() > give_up or any(process.poll() is not None for process in processes):
            raise NoSuite(f"The fixture did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the report --------------------------------------------------------------------------------------


def report(command: Sequence[str], url: str, scenarios: Sequence[str]) -> bool:
    """Run scenarios and print what came of them; whether nothing failed."""
    width = max(map(len, scenarios))
    total: Counter[str] = Counter()
    print(f"{SUITE} {SUITE_VERSION}\n\n{'scenario':{width}}  pass fail warn skip")
    for scenario in scenarios:
        checks = run_scenario(command, url, scenario)
        counts = Counter(check["status"] for check in checks) or Counter(FAILURE=1)
        total += counts
        columns = [counts[status] for status in ("SUCCESS", "FAILURE", "WARNING", "SKIPPED")]
        print(f"{scenario:{width}}  {' '.join(f'{count:4}' for count in columns)}")
        for check in checks:
            if check["status"] in ("FAILURE", "WARNING"):
                reason = check.get("errorMessage") or json.dumps(check.get("details", {}))
                print(f"    {check['status']} {check['id']}: {' '.join(reason.split())[:400]}")
        if not checks:
            print("    FAILURE: the scenario did not run")
    print(f"\n{total['SUCCESS']} passed, {total['FAILURE']} failed")
    return total["FAILURE"] == 0


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help="default: tasks, and what is asked before them")
    parser.add_argument("--url", help="a server that runs already, instead of the fixture")
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tasks-service-conformance",
        help="where the suite is installed",
    )
    options = parser.parse_args()
    scenarios = options.scenarios or (*TASKS, *PREFLIGHT)
    try:
        command = suite_command(options.home)
        if options.url:
            return 0 if report(command, options.url, scenarios) else 1
        with (
            tempfile.TemporaryDirectory(prefix="conformance-service-") as directory,
            serving(Path(directory)) as url,
        ):
            return 0 if report(command, url, scenarios) else 1
    except NoSuite as error:
        print(f"The conformance suite was NOT run: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
