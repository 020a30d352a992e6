"""Where other people's clients and hosts are installed: once, into a cache directory, from lock files."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INSTALL_SECONDS = 600
NODE_NEEDED = (22, 19)
"""What the Inspector asks for."""


class NotInstallable(Exception):
    """A client cannot be had on this machine; says why."""


@dataclass(frozen=True)
class NodePackages:
    """A directory with npm packages, and a Node that is new enough for them."""

    home: Path
    node: str


def python_environment(lock: Path) -> str:
    """The Python of an environment with what a lock file pins.

    Raises:
        NotInstallable: pip cannot install it here.
    """

    def install(home: Path) -> None:
        _run([sys.executable, "-m", "venv", str(home)], home)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        _run([*pip, "--require-hashes", "--requirement", str(lock)], home)

    return str(_installed(lock.stem, [lock], install) / "bin" / "python")


def node_packages(lock: Path) -> NodePackages:
    """The npm packages that the lock file in a directory pins, and a Node for them.

    Raises:
        NotInstallable: npm is missing or cannot install them, or there is no Node for this machine.
    """
    home = npm_directory(lock)
    return NodePackages(home, _node(home))


def npm_directory(lock: Path) -> Path:
    """The directory with the npm packages that the lock file in a directory pins.

    Raises:
        NotInstallable: npm is missing or cannot install them.
    """
    files = [lock / name for name in ("package.json", "package-lock.json")]

    def install(home: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise NotInstallable("npm is not on PATH; it comes with Node.js")
        for file in files:
            shutil.copy(file, home)
        # The packages run as they are; no script of theirs has anything to do here.
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"]
        _run(command, home)

    return _installed(lock.name, files, install)


def _node(home: Path) -> str:
    brought = sorted(home.glob("node_modules/node-*-*/bin/node"))
    if brought:
        return str(brought[0])
    node = shutil.which("node")
    if node is None:
        raise NotInstallable("there is no Node on PATH, and npm brings none for this machine")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(part) for part in version.strip().lstrip("v").split(".")[:2])
    if (major, minor) < NODE_NEEDED:
        raise NotInstallable(f"Node {version.strip()} is too old, and npm brings none for this machine")
    return node


def _installed(name: str, pins: list[Path], install: Callable[[Path], None]) -> Path:
    """The directory that these pins are installed in; installed now if nobody has yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tasks-service-clients"
    python = ".".join(map(str, sys.version_info[:2])).encode()
    digest = hashlib.sha256(b"\0".join([python, *(pin.read_bytes() for pin in pins)])).hexdigest()
    home = cache / f"{name}-{digest[:12]}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f"{home.name}.lock"):
            if not (home / "complete").exists():
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                install(home)
                (home / "complete").touch()
    except OSError as error:
        raise NotInstallable(f"{name} cannot be installed in {cache}: {error}") from error
    return home


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str], directory: Path) -> None:
    try:
        ran = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstallable(f"{' '.join(command)} took more than {INSTALL_SECONDS} s") from error
    if ran.returncode != 0:
        raise NotInstallable(f"{' '.join(command)} failed: {ran.stderr.strip()[:1000]}")
